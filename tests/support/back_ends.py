# SPDX-License-Identifier: BSD-2-Clause
"""vhost-user back-ends, of others and our own, as tests start, kill and start them again."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from .vm import BUILD

LIMIT = 60


class BackEnd:
    """A process that listens at `socket`; ends with the test."""

    def __init__(self, path, command):
        self.socket = Path(path)
        self.command = [str(part) for part in command]
        self.process = None
        if not shutil.which(self.command[0]):
            pytest.skip(f"{self.command[0]} is not installed (tools/setup installs it)")

    def start(self, listens=True):
        """With listens, waits until it does; otherwise it connects to somebody."""
        if listens:
            self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        end = time.monotonic() + LIMIT
        while listens and not self._listens():
            assert self.process.poll() is None, f"{self.command[0]} has ended with {self.process.returncode}"
            assert time.monotonic() < end, f"{self.command[0]} does not listen at {self.socket}"
            time.sleep(0.02)
        return self

    def _listens(self):
        # Looked up, for a connection would be taken for the one that counts.
        return any(line.endswith(f" {self.socket}\n") and " 00010000 " in line for line in open("/proc/net/unix"))

    def kill(self):
        """As it happens to processes: at any instruction."""
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self.kill()


def storage_daemon(folder, disk, queues=1, program="qemu-storage-daemon", lock=True, thread=False, options=""):
    """The disk image `disk` of QEMU's storage daemon; with thread, which polls before it sleeps, in one of its own."""
    path = Path(folder) / f"{Path(disk).name}.socket"
    return BackEnd(path, [program, *(("--object", "iothread,id=thread") if thread else ()),
                          "--blockdev", f"driver=file,node-name=file,filename={disk}{options}" + ("" if lock else ",locking=off"),
                          "--export", f"type=vhost-user-blk,id=export,addr.type=unix,addr.path={path},node-name=file,"
                                      f"writable=on,num-queues={queues}" + (",iothread=thread" if thread else "")])


def godwit_blk(folder, image, *arguments):
    """The disk `image` of our own back-end."""
    path = Path(folder) / "disk.socket"
    return BackEnd(path, [BUILD / "src/blk_back_end/godwit-blk", "--file", image, "--socket", path, *arguments])


def shared_folder(folder, shared, sandbox="chroot"):
    """The folder `shared` of QEMU's virtiofsd."""
    path = Path(folder) / "fs.socket"
    return BackEnd(path, ["/usr/lib/qemu/virtiofsd", f"--socket-path={path}", "-o", f"source={shared}",
                          "-o", f"sandbox={sandbox}"])


def image(path, size):
    """A disk image of `size` bytes at `path`."""
    with open(path, "wb") as file:
        file.truncate(size)
    return path


