# SPDX-License-Identifier: BSD-2-Clause
"""Files that QEMU wrote with mapped-ram, from paused machines, read by `godwit snapshot` and by the second reader."""

import json
import os
import random
import socket
import subprocess
import time
from pathlib import Path

import pytest

from support.mapped_ram import PAGE, Snapshot
from support.vm import REPOSITORY

CACHE = Path(os.environ.get("GODWIT_CACHE", REPOSITORY / ".cache"))
QEMU = CACHE / "qemu-10/qemu-system-x86_64"
MIB = 1 << 20
LOADED_AT, LOADED_PAGES = 2 * MIB, 700

pytestmark = pytest.mark.skipif(not QEMU.exists(), reason="QEMU 10 is not set up (tools/setup)")


class Qemu:
    """A machine that never runs, with something in its memory."""

    def __init__(self, folder, *arguments):
        source = random.Random(5)
        self.content = b"".join(source.randbytes(PAGE) if source.random() < 0.5 else bytes(PAGE)
                                for _ in range(LOADED_PAGES))
        self.folder = folder
        (folder / "load").write_bytes(self.content)
        self.process = subprocess.Popen(
            [QEMU, "-accel", "tcg", "-S", "-display", "none", "-nodefaults", "-qmp", f"unix:{folder}/q,server=on,wait=off",
             "-device", f"loader,file={folder}/load,addr={LOADED_AT},force-raw=on", *arguments],
            stdin=subprocess.DEVNULL)
        limit = time.monotonic() + 30
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(f"{folder}/q")
                break
            except OSError:
                assert time.monotonic() < limit and self.process.poll() is None
                time.sleep(0.05)
        self.stream = self.socket.makefile("rw")
        self.stream.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while "return" not in (answer := json.loads(self.stream.readline())):
            assert "error" not in answer, answer
        return answer["return"]

    def save(self, name, **capabilities):
        capabilities = {"mapped-ram": True, **{key.replace("_", "-"): value for key, value in capabilities.items()}}
        self("migrate-set-capabilities",
             capabilities=[{"capability": key, "state": value} for key, value in capabilities.items()])
        self("migrate", uri=f"file:{self.folder}/{name}")
        limit = time.monotonic() + 60
        while (status := self("query-migrate").get("status")) != "completed":
            assert status != "failed" and time.monotonic() < limit, self("query-migrate")
            time.sleep(0.02)
        return self.folder / name

    def memory(self, address, size):
        """What the machine has there."""
        path = self.folder / f"memory-{address:x}"
        self("pmemsave", val=address, size=size, filename=str(path))
        return path.read_bytes()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.socket.close()


@pytest.fixture
def qemu(tmp_path):
    started = []

    def start(*arguments):
        started.append(Qemu(tmp_path, *arguments))
        return started[-1]

    yield start
    for machine in started:
        machine.end()


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("capabilities", [{}, {"multifd": True}], ids=["plain", "multifd"])
def test_block_is_read_back_byte_identical(qemu, godwit, tmp_path, machine, capabilities):
    vm = qemu("-machine", machine, "-m", "48M")
    memory = vm.memory(0, 48 * MIB)
    assert memory[LOADED_AT:LOADED_AT + len(vm.content)] == vm.content
    file = vm.save("q.snap", **capabilities)
    result = godwit("snapshot", "export", file, tmp_path / "out", "--raw", "pc.ram")
    assert result.returncode == 0, result.stderr
    # The BIOS is shadowed below 1 MiB: there the machine sees other blocks than RAM.
    assert (tmp_path / "out").read_bytes()[MIB:] == memory[MIB:]
    assert (tmp_path / "out").read_bytes() == Snapshot(file).read("pc.ram")


def test_core_file_of_a_machine_with_memory_above_4_gib(qemu, godwit, tmp_path):
    vm = qemu("-machine", "q35", "-m", "3G", "-device", f"loader,file={tmp_path}/load,addr=0x100400000,force-raw=on")
    file = vm.save("q.snap")
    result = godwit("snapshot", "export", file, tmp_path / "core", "--elf")
    assert result.returncode == 0
    assert "max-ram-below-4g" in result.stderr
    said = subprocess.run(["readelf", "-lW", tmp_path / "core"], capture_output=True, text=True, check=True).stdout
    loads = [[int(word, 16) for word in line.split()[1:6]] for line in said.splitlines() if "LOAD" in line]
    assert [address for _, _, address, _, _ in loads] == [0, 1 << 32]
    with open(tmp_path / "core", "rb") as core:
        core.seek(loads[1][0] + 4 * MIB)
        assert core.read(len(vm.content)) == vm.content


def test_sections_in_front_of_ram_are_walked(qemu, godwit):
    vm = qemu("-machine", "q35", "-m", "48M,maxmem=1G,slots=2", "-object", "memory-backend-ram,id=m0,size=64M",
              "-device", "virtio-mem-pci,memdev=m0,id=hot0,requested-size=0")
    file = vm.save("q.snap")
    said = json.loads(godwit("snapshot", "info", "--json", file).stdout)
    assert said["writer"] == "qemu" and said["machine"].startswith("pc-q35-")
    assert any(block["name"].endswith("m0") for block in said["blocks"])
    assert any("virtio-mem" in section["name"] for section in said["sections"])
    assert len(said["sections"]) == len(Snapshot(file).sections)


def test_verify_says_that_there_are_no_checksums(qemu, godwit):
    file = qemu("-machine", "pc", "-m", "48M").save("q.snap")
    assert godwit("snapshot", "verify", file).stdout.endswith("QEMU's files have no checksums\n")


def test_bitmaps_that_were_never_written_are_refused(qemu, refused):
    """What a background snapshot of QEMU leaves behind: pages, and bitmaps of zeros."""
    file = qemu("-machine", "pc", "-m", "48M").save("q.snap")
    data = bytearray(file.read_bytes())
    for block in Snapshot(file).blocks:
        at = data.index(block.name.encode()) + len(block.name) + 8 + 28
        data[at:at + len(block.bitmap)] = bytes(len(block.bitmap))
    file.write_bytes(data)
    assert "QEMU did not write the bitmaps (background-snapshot)" in refused("snapshot", "info", file, status=1)


def test_file_cut_off_is_refused(qemu, refused):
    file = qemu("-machine", "pc", "-m", "48M").save("q.snap")
    os.truncate(file, os.path.getsize(file) - 100)
    refused("snapshot", "info", file, status=1)


def test_flatten_and_build_on_are_for_our_files(qemu, refused, tmp_path):
    file = qemu("-machine", "pc", "-m", "48M").save("q.snap")
    assert "was written by QEMU" in refused("snapshot", "flatten", file, tmp_path / "x", status=1)
