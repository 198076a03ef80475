# SPDX-License-Identifier: BSD-2-Clause
"""godwit-blk as the disk of QEMU's machines. Their guest is a boot sector that writes and reads through the firmware's
driver: each round fills a block of the disk with its number, reads it back and compares."""

import json
import os
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from support.vm import BUILD, REPOSITORY

PROGRAM = BUILD / "src/blk_back_end/godwit-blk"
QEMU_10 = Path(os.environ.get("GODWIT_CACHE", REPOSITORY / ".cache")) / "qemu-10/qemu-system-x86_64"
INSTALLED = shutil.which("qemu-system-x86_64")
QEMUS = [pytest.param(INSTALLED, id="installed", marks=pytest.mark.skipif(not INSTALLED, reason="there is no QEMU")),
         pytest.param(str(QEMU_10), id="10",
                      marks=pytest.mark.skipif(not QEMU_10.exists(), reason="QEMU 10 is not set up (tools/setup)"))]
BLOCKS, FIRST = 64, 8  # of 4 KiB: blocks that rounds fill in turn, and where the first is, in sectors
LIMIT = 120  # seconds

# Sector 1 has the number of rounds. A '.' for each, an 'F' at the end, an 'X' when something was not as written.
GUEST = """
	.code16
	.globl _start
_start:	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7c00, %sp
	cld
	sti
	movb %dl, drive
	movl $1, lba
	movw $1, count
	movw $0x8000, buffer
	movb $0x42, %ah
	call disk
	movl $1, %ebx
round:	movl %ebx, %eax
	movw $0x9000, %di
	movw $1024, %cx
	rep stosl
	movl %ebx, %eax
	andl $63, %eax
	shll $3, %eax
	addl $8, %eax
	movl %eax, lba
	movw $8, count
	movw $0x9000, buffer
	movb $0x43, %ah
	call disk
	movw $0xb000, buffer
	movb $0x42, %ah
	call disk
	movw $0xb000, %di
	movl %ebx, %eax
	movw $1024, %cx
	repe scasl
	jne bad
	movb $'.', %al
	outb %al, $0xe9
	cmpl 0x8000, %ebx
	je last
	incl %ebx
	jmp round
last:	movb $'F', %al
	outb %al, $0xe9
	outb %al, $0xf4
stop:	hlt
	jmp stop
bad:	movb $'X', %al
	outb %al, $0xe9
	jmp stop
disk:	xorb %al, %al
	movb drive, %dl
	movw $packet, %si
	pushl %ebx
	int $0x13
	popl %ebx
	jc bad
	ret
drive:	.byte 0
	.balign 4
packet:	.byte 16, 0
count:	.word 0
buffer:	.word 0, 0
lba:	.long 0, 0
	.org 510
	.word 0xaa55
"""


@pytest.fixture(scope="module")
def boot_sector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guest")
    (folder / "guest.s").write_text(GUEST)
    subprocess.run(["as", "--32", "-o", folder / "guest.o", folder / "guest.s"], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", folder / "guest.bin",
                    folder / "guest.o"], check=True)
    return (folder / "guest.bin").read_bytes()


def wait_for(condition, what):
    deadline = time.monotonic() + LIMIT
    while not (result := condition()):
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)
    return result


class BackEnd:
    def __init__(self, disk, path, *arguments):
        self.command = [PROGRAM, "--file", disk, "--socket", path, *arguments]
        self.path = path
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        wait_for(self.path.exists, "socket")

    def end(self):
        self.process.terminate()
        assert self.process.wait(LIMIT) == 0


class Qemu:
    def __init__(self, program, folder, name, disk_socket, *arguments):
        self.statuses = []  # of its migration
        self.log, control = folder / f"{name}.log", folder / f"{name}.qmp"
        self.process = subprocess.Popen(
            [program, "-accel", "tcg", "-machine", "q35,memory-backend=mem,hpet=off", "-nodefaults", "-display", "none",
             "-m", "64M,slots=256,maxmem=64G", "-object", "memory-backend-memfd,id=mem,size=64M,share=on",
             "-debugcon", f"file:{self.log}", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
             "-chardev", f"socket,id=disk,path={disk_socket},reconnect=1",
             "-device", "vhost-user-blk-pci,chardev=disk,num-queues=2,bootindex=0,id=disk0",
             "-qmp", f"unix:{control},server=on,wait=off", *arguments], stdin=subprocess.DEVNULL)
        wait_for(lambda: self.connect(control), "QMP")

    def connect(self, control):
        assert self.process.poll() is None
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(str(control))
        except OSError:
            self.socket.close()
            return False
        self.stream = self.socket.makefile("rw")
        self.stream.readline()
        self("qmp_capabilities")
        return True

    def __call__(self, command, **arguments):
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while "return" not in (answer := json.loads(self.stream.readline())):
            assert "error" not in answer, answer
            self.statuses.append(answer.get("data", {}).get("status"))
        return answer["return"]

    def rounds(self):
        said = self.log.read_text()
        assert "X" not in said
        return said.count(".")

    def wait_for_rounds(self, count):
        wait_for(lambda: self.process.poll() is not None or self.rounds() >= count, f"round {count}")
        assert self.rounds() >= count

    def wait(self):
        """Until the guest has ended it."""
        assert self.process.wait(LIMIT) == (ord("F") << 1 | 1) & 0xff
        assert self.log.read_text().endswith("F")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.socket.close()


@pytest.fixture
def machines():
    started = []
    yield started
    for one in started:
        one.process.kill()
        one.process.wait()


def make_disk(folder, boot_sector, rounds):
    disk = folder / "disk"
    disk.write_bytes(boot_sector + struct.pack("<I", rounds))
    os.truncate(disk, 1 << 20)
    return disk


def check_disk(disk, rounds):
    """Each block has the last round that filled it."""
    data = disk.read_bytes()
    for block in range(BLOCKS):
        last = rounds - (rounds - block) % BLOCKS
        at = (FIRST + 8 * block) * 512
        assert data[at:at + 4096] == struct.pack("<I", max(last, 0)) * 1024


@pytest.mark.parametrize("qemu", QEMUS)
def test_guest_goes_on_when_its_back_end_is_killed(tmp_path, machines, boot_sector, qemu):
    rounds, kills = 1500, 4
    disk = make_disk(tmp_path, boot_sector, rounds)
    back_end = BackEnd(disk, tmp_path / "disk.socket", "--queues", "2")
    machines.append(back_end)
    guest = Qemu(qemu, tmp_path, "guest", back_end.path)
    machines.append(guest)
    for kill in range(kills):
        guest.wait_for_rounds(rounds * (kill + 1) // (kills + 2))
        back_end.process.kill()
        back_end.process.wait()
        back_end.start()
    guest.wait()
    assert guest.rounds() == rounds
    check_disk(disk, rounds)
    back_end.end()


@pytest.mark.parametrize("qemu", QEMUS)
def test_memory_grows_up_to_qemus_own_limit(tmp_path, machines, boot_sector, qemu):
    """Each module is a piece of memory more; others end here at the number of theirs."""
    rounds, modules = 1 << 30, 255  # QEMU gives a back-end 256 pieces at most
    disk = make_disk(tmp_path, boot_sector, rounds)
    back_end = BackEnd(disk, tmp_path / "disk.socket", "--queues", "2")
    machines.append(back_end)
    guest = Qemu(qemu, tmp_path, "guest", back_end.path)
    machines.append(guest)
    guest.wait_for_rounds(50)
    for index in range(modules):
        guest("object-add", **{"qom-type": "memory-backend-memfd", "id": f"more{index}", "size": 128 << 20, "share": True})
        guest("device_add", driver="pc-dimm", id=f"module{index}", memdev=f"more{index}")
    guest.wait_for_rounds(guest.rounds() + 50)


@pytest.mark.parametrize("post_copy", [False, True], ids=["pre-copy", "post-copy"])
@pytest.mark.parametrize("qemu", QEMUS)
def test_guest_migrates_with_a_back_end_at_each_end(tmp_path, machines, boot_sector, qemu, post_copy):
    if post_copy and os.geteuid() and "1" not in Path("/proc/sys/vm/unprivileged_userfaultfd").read_text():
        pytest.skip("page faults cannot be served by this user")
    rounds = 3000
    disk = make_disk(tmp_path, boot_sector, rounds)
    ends = []
    for name in ("source", "destination"):
        incoming = ("-incoming", f"unix:{tmp_path}/migration") if ends else ()
        back_end = BackEnd(disk, tmp_path / f"{name}.socket", "--queues", "2")
        machines.append(back_end)
        machines.append(Qemu(qemu, tmp_path, name, back_end.path, *incoming))
        ends.append(machines[-1])
    source, destination = ends
    source.wait_for_rounds(100)
    if post_copy:
        for end in ends:
            end("migrate-set-capabilities", capabilities=[{"capability": name, "state": True}
                                                          for name in ("postcopy-ram", "events")])
        source("migrate-set-parameters", **{"max-bandwidth": 64 << 10})  # it does not end before post-copy begins
    source("migrate", uri=f"unix:{tmp_path}/migration")
    if post_copy:
        wait_for(lambda: source("query-migrate").get("ram", {}).get("transferred", 0) > 0, "byte")
        source("migrate-start-postcopy")
    wait_for(lambda: source("query-migrate")["status"] == "completed", "end of the migration")
    assert ("postcopy-active" in source.statuses) == post_copy
    before = source.rounds()
    source.kill()
    destination.wait()
    assert before < rounds
    # The debug port of the one or the other has had each round's mark.
    assert before + destination.rounds() == rounds
    check_disk(disk, rounds)
