# SPDX-License-Identifier: BSD-2-Clause
"""Stock guests with disks of godwit-blk, which is killed while fio verifies what it writes; and with one of each kind of back-end
that takes memory in slots, while memory grows and shrinks under fio.

GODWIT_TEST_KILLS and GODWIT_TEST_BACK_END_RESIZES make it longer, GODWIT_TEST_SEED repeats a run.
"""

import os
import random
import tempfile
import time
from pathlib import Path

import pytest

from support.back_ends import godwit_blk, image, shared_folder, storage_daemon
from support.stock import StockGuest, wait_until
from support.stock import image as guest_image
from support.vhost_user_wire import ADD_MEM_REG, REM_MEM_REG, SET_MEM_TABLE, Wire
from support.vm import MIB, Failure

SIZE = 64 * MIB
BLOCK, MAXIMUM = 2 * MIB, 256 * MIB
KILLS = int(os.environ.get("GODWIT_TEST_KILLS", 10))
RESIZES = int(os.environ.get("GODWIT_TEST_BACK_END_RESIZES", 10))
SEED = int(os.environ.get("GODWIT_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
FIO = ("fio --name=check --filename=%s --size=16M --rw=randwrite --bsrange=4k-64k --iodepth=16 --ioengine=libaio "
       "--direct=1 --verify=crc32c --verify_fatal=1")
# Each kind of back-end with what fio writes to; 32 pieces of memory are taken by the last two.
KINDS = {"own": "/dev/vdc", "daemon": "/dev/vdd", "files": "/mnt/shared/data"}
# A size that the guest cannot reach at once, since a page is busy, is given up for the next one.
PATIENCE = 10


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="godwit-test-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def disk(folder):
    with godwit_blk(folder, image(folder / "disk", SIZE), "--queues", "2") as back_end:
        yield back_end.start()


@pytest.fixture(scope="module")
def root(folder):
    (folder / "root").mkdir()
    with godwit_blk(folder / "root", guest_image("rootfs", "6.12-cloud", str(folder / "rootfs"), "512M")) as back_end:
        yield back_end.start()


@pytest.fixture(scope="module")
def wires(folder):
    """Of each kind one, and whoever notes what it is told of memory."""
    (folder / "own").mkdir()
    (folder / "shared").mkdir()
    with godwit_blk(folder / "own", image(folder / "own" / "disk", SIZE)) as own, \
            storage_daemon(folder, image(folder / "daemon", SIZE)) as daemon, \
            shared_folder(folder, folder / "shared") as files, \
            Wire(folder / "own.wire", own.start()) as own_wire, \
            Wire(folder / "daemon.wire", daemon.start()) as daemon_wire, \
            Wire(folder / "files.wire", files.start()) as files_wire:
        yield {"own": own_wire, "daemon": daemon_wire, "files": files_wire}


@pytest.fixture(scope="module")
def guest(root, disk, wires):
    with StockGuest("--disk", f"vhost-user:{root.socket},id=root", "--disk", f"vhost-user:{disk.socket},queues=2,id=data",
                    "--disk", f"vhost-user:{wires['own'].socket},id=own",
                    "--disk", f"vhost-user:{wires['daemon'].socket},id=daemon",
                    "--fs", f"vhost-user:{wires['files'].socket},tag=shared,id=files",
                    "--elastic", f"id=mem0,max={MAXIMUM // MIB}M", cpus=2, cmdline="root=/dev/vda") as vm:
        yield vm.wait_ready()


def back_end(guest, ident="data"):
    return next(item for item in guest.qmp.command("godwit-memory")["back-ends"] if item["id"] == ident)


def start_fio(guest, name, target):
    """Writes and verifies all that it has written, again and again, until it is told to end."""
    guest.sh("rm -f /tmp/fio.end")
    guest.sh(f"(until [ -f /tmp/fio.end ]; do {FIO % target} >/tmp/fio.{name} 2>&1 || break; done; "
             f"echo $? >/tmp/fio.{name}.status) </dev/null >/dev/null 2>&1 &")


def end_fio(guest, names):
    guest.sh("touch /tmp/fio.end")
    for name in names:
        wait_until(lambda name=name: guest.sh(f"cat /tmp/fio.{name}.status 2>/dev/null; true").strip(), 240)
        said = guest.sh(f"cat /tmp/fio.{name}")
        assert guest.sh(f"cat /tmp/fio.{name}.status").strip() == "0" and "err= 0" in said, said
        assert "verify" not in guest.sh(f"grep -i 'verify.*fail' /tmp/fio.{name}; true")


def test_killed_while_fio_verifies_and_memory_changes(guest, disk, record_property):
    dice = random.Random(SEED)
    print(f"GODWIT_TEST_SEED={SEED}")
    began = time.monotonic()
    start_fio(guest, "killed", "/dev/vdb")
    for kill in range(KILLS):
        time.sleep(dice.random() / 2)
        disk.kill()
        wait_until(lambda: not back_end(guest)["connected"], 60)
        disk.start()
        wait_until(lambda: back_end(guest)["connected"], 60)
        guest.request("mem0", (64 if kill % 2 else 192) * MIB)
    end_fio(guest, ["killed"])
    record_property("measured", f"killed {KILLS} times in {time.monotonic() - began:.0f} s under fio, seed {SEED}")


def settles(guest, size):
    """Whether the guest gets to this size in reasonable time."""
    try:
        guest.resize("mem0", size, PATIENCE)
        return True
    except Failure:
        return False


def one_block(guest, wires, more):
    """Changes memory by one block under fio: what each back-end was told for it."""
    before = {kind: len(wire.messages) for kind, wire in wires.items()}
    size = guest.elastic("mem0")["size"]
    guest.resize("mem0", size + (BLOCK if more else -BLOCK))
    return {kind: [request for request, _, _ in wire.messages[before[kind]:]] for kind, wire in wires.items()}


def test_memory_is_resized_under_fio_on_each_kind(guest, wires, record_property):
    dice = random.Random(SEED)
    print(f"GODWIT_TEST_SEED={SEED}")
    guest.resize("mem0", 192 * MIB)
    guest.sh("mkdir -p /mnt/shared && mount -t virtiofs shared /mnt/shared")
    for kind, target in KINDS.items():
        start_fio(guest, kind, target)
    began, reached = time.monotonic(), 0
    for _ in range(RESIZES):
        unit = dice.choice((BLOCK, 128 * MIB))  # whole memory blocks of the guest half of the time
        reached += settles(guest, dice.randint(0, MAXIMUM // unit) * unit)
        for kind, wire in wires.items():
            held = back_end(guest, kind)
            assert held["connected"] and held["slots"] <= held["maximum"]
            assert not wire.wrong and held["exact"] == (held["excess"] == 0)
    seconds = time.monotonic() - began
    assert reached

    guest.resize("mem0", 192 * MIB)
    for more in (True, True, False, True, False, False):
        for kind, told in one_block(guest, wires, more).items():
            assert len(told) <= 2 and (REM_MEM_REG if more else ADD_MEM_REG) not in told, (kind, told)
    end_fio(guest, KINDS)
    assert not any(wire.wrong for wire in wires.values())
    assert not any(request == SET_MEM_TABLE for wire in wires.values() for request, _, _ in wire.messages)
    messages = ", ".join(f"{len(wire.messages)} to {kind}" for kind, wire in wires.items())
    record_property("measured", f"{RESIZES} resizes in {seconds:.0f} s under fio on three back-ends, {reached} reached, seed {SEED}; "
                                f"messages about memory: {messages}")
    guest.sh("umount /mnt/shared")


def test_it_holds_exactly_what_is_plugged(guest, wires):
    guest.resize("mem0", 128 * MIB)
    for ident in ("data", "own"):
        held = back_end(guest, ident)
        assert held["exact"] and held["excess"] == 0 and held["maximum"] == 32764
    guest.resize("mem0", 0)
    assert guest.region("mem0")["resident"] == 0
    assert all(back_end(guest, kind)["slots"] == len(wires[kind].held) == 1 for kind in KINDS)


def test_guest_has_nothing_to_complain_of(guest):
    assert not guest.kernel_complaints()
    devices = guest.qmp.command("godwit-devices")
    assert not any(device["violations"] for device in devices)
