# SPDX-License-Identifier: BSD-2-Clause
"""Machines whose guest never runs, for saving and restoring them: godwit's, QEMU's, and the disk's own speed.

QEMU at its fastest: mapped-ram, multifd with godwit's number of channels, direct I/O, no limit of bandwidth, no KVM to
set up. It does not sync its file; that is done here, and counted. What a restore reads is not in the page cache.
"""

import json
import os
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

from bench.support import qemu
from support.vm import BUILD, GODWIT, KIB, MIB, Machine

CHANNELS = 2
LIMIT = 600
PAGE = 4 * KIB
KEPT = 32 * MIB  # at the start of memory, where the guest's own program is
TICK = os.sysconf("SC_CLK_TCK")


# --- Memory ---------------------------------------------------------------------------------------------


def fill(machine, size, percent, run=MIB):
    """Gives a paused guest its content from outside: nothing is zero in @percent of its memory, all of it different.

    50: every other @run bytes. Returns how many bytes are not zero. Only those that are written exist.
    """
    files = Path(f"/proc/{machine.process.pid}/fd").iterdir()
    path = next(file for file in files if "memfd:" in str(file.readlink()) and file.stat().st_size == size)
    block, written = bytearray(os.urandom(run)), 0
    memory = os.open(path, os.O_RDWR)
    try:
        for start in range(KEPT, size, run * 100 // percent) if percent else ():
            for page in range(0, run, PAGE):
                struct.pack_into("<QQ", block, page, start + page, ~start & (1 << 64) - 1)
            written += os.pwrite(memory, block, start)
    finally:
        os.close(memory)
    return written


def processor_seconds(pid):
    """Of all threads, those that ended included."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / TICK


def forget(path):
    """Makes the host read the file from its disk the next time."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- The two sides: save(path) gives (seconds, processor seconds), restore(path) also the seconds of starting ---


class Godwit(Machine):
    """A guest that has not run one instruction."""

    options = {"channels": CHANNELS}

    def __init__(self, size):
        super().__init__("--kernel", BUILD / "tests/mini/moving.elf", "--cmdline", "mini rounds=20000",
                         "--memory", f"{size},backing=memfd", "--paused", serial=False, console=False)
        self.qmp.command("query-status")

    def save(self, path):
        before, start = processor_seconds(self.process.pid), time.monotonic()
        job = self.qmp.command("godwit-save", file=str(path), **self.options)["job"]
        self.qmp.event("JOB_STATUS_CHANGE", LIMIT, lambda data: data["id"] == job and data["status"] == "concluded")
        seconds = time.monotonic() - start
        found = next(entry for entry in self.qmp.command("query-jobs") if entry["id"] == job)
        assert "error" not in found, found
        return seconds, processor_seconds(self.process.pid) - before

    @staticmethod
    def restore(path, _size):
        """From the start of the process until it answers: everything is there then. What starting took is not known."""
        with Restored(path, "--paused") as machine:
            return machine.seconds, processor_seconds(machine.process.pid), 0

    @staticmethod
    def restore_lazily(path):
        """From the start of the process until it answers, with the guest running; and what it says of itself."""
        with Restored(path, "--lazy") as machine:
            return machine.seconds, machine.report()["started-ns"] / 1e9


class Restored(Machine):
    def __init__(self, path, *arguments):
        self._prepare(None, None)
        self.seconds = time.monotonic()
        self._launch([GODWIT, "restore", str(path), "--name", self.name, "--channels", str(CHANNELS), *arguments])
        # The main loop answers when the restore is over. Machine.qmp would look for the socket every 50 ms only.
        self.control = socket.socket(socket.AF_UNIX)
        while self.control.connect_ex(f"{self.directory}/{self.name}.sock"):
            self.check_alive()
            time.sleep(0.0005)
        assert self.control.recv(4096), self.stderr()
        self.seconds = time.monotonic() - self.seconds

    def report(self):
        return self.qmp.command("godwit-restore")

    def kill(self):
        self.control.close()
        super().kill()


class Qemu(Machine):
    CAPABILITIES = ("events", "mapped-ram", "multifd")

    def __init__(self, size, *arguments):
        words, environment = qemu.program()
        self._prepare(None, environment)
        self.launched = time.monotonic()
        self._launch([*words, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-accel", "tcg,tb-size=16",
                      "-machine", f"{qemu.ELASTIC_MACHINE},memory-backend=ram", "-m", f"{size // MIB}M",
                      *qemu.memory_object("ram", size, "memfd"),
                      "-qmp", f"unix:{self.directory}/{self.name}.sock,server=on,wait=off", *arguments])
        self.qmp.command("migrate-set-capabilities",
                         capabilities=[{"capability": name, "state": True} for name in self.CAPABILITIES])
        self.qmp.command("migrate-set-parameters",
                         **{"max-bandwidth": 0, "multifd-channels": CHANNELS, "direct-io": True})

    def _migrate(self, command, path):
        before, start = processor_seconds(self.process.pid), time.monotonic()
        self.qmp.command(command, uri=f"file:{path}")
        end = self.qmp.event("MIGRATION", LIMIT, lambda data: data["status"] in ("completed", "failed"))
        assert end["status"] == "completed", self.stderr()
        return start, processor_seconds(self.process.pid) - before

    def save(self, path):
        start, processor = self._migrate("migrate", path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        return time.monotonic() - start, processor

    @classmethod
    def restore(cls, path, size):
        """From the start of the process; and how much of that was before it could be told what to do."""
        with cls(size, "-incoming", "defer") as machine:
            start, _ = machine._migrate("migrate-incoming", path)
            seconds = time.monotonic() - machine.launched
            return seconds, processor_seconds(machine.process.pid), start - machine.launched


# --- The disk -------------------------------------------------------------------------------------------


def disk_speed(path, size):
    """Seconds to write and sync a new file, and to read it, past the page cache, with requests of 1 MiB."""
    try:
        if shutil.which("fio"):
            return [_fio(path, size, way) for way in ("write", "read")]
        return [_dd(size, f"if=/dev/zero of={path} oflag=direct conv=fsync"),
                _dd(size, f"if={path} of=/dev/null iflag=direct")]
    finally:
        Path(path).unlink(missing_ok=True)


def _fio(path, size, way):
    words = ["fio", "--name=disk", f"--filename={path}", f"--size={size}", "--bs=1M", f"--rw={way}", "--direct=1",
             "--ioengine=io_uring", "--iodepth=16", "--end_fsync=1", "--output-format=json"]
    found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)["jobs"][0][way]
    return found["runtime"] / 1000


def _dd(size, words):
    start = time.monotonic()
    subprocess.run(["dd", "bs=4M", f"count={size // (4 * MIB)}", *words.split()], check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - start
