# SPDX-License-Identifier: BSD-2-Clause
"""Stock guests with disks of godwit-blk, which is killed while fio verifies what it writes and memory grows and shrinks."""

import random
import tempfile
import time
from pathlib import Path

import pytest

from support.back_ends import godwit_blk, image
from support.stock import StockGuest, wait_until
from support.stock import image as guest_image
from support.vm import MIB

SIZE = 64 * MIB
KILLS = 10
FIO = ("fio --name=check --filename=/dev/vdb --size=32M --rw=randwrite --bsrange=4k-64k --iodepth=16 --ioengine=libaio "
       "--direct=1 --verify=crc32c --verify_fatal=1 --time_based --runtime=%d")


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
def guest(root, disk):
    with StockGuest("--disk", f"vhost-user:{root.socket},id=root", "--disk", f"vhost-user:{disk.socket},queues=2,id=data",
                    "--elastic", "id=mem0,max=1G", cpus=2, cmdline="root=/dev/vda") as vm:
        yield vm.wait_ready()


def back_end(guest, ident="data"):
    return next(item for item in guest.qmp.command("godwit-memory")["back-ends"] if item["id"] == ident)


def test_killed_while_fio_verifies_and_memory_changes(guest, disk):
    generator = random.Random(7)
    guest.sh(f"({FIO % 5} >/tmp/fio 2>&1; echo $? >/tmp/fio.status) &")
    for kill in range(KILLS):
        time.sleep(generator.random() / 2)
        disk.kill()
        wait_until(lambda: not back_end(guest)["connected"], 60)
        disk.start()
        wait_until(lambda: back_end(guest)["connected"], 60)
        guest.cli("resize", guest.name, "mem0", f"{128 if kill % 2 else 384}M")
    wait_until(lambda: guest.sh("cat /tmp/fio.status 2>/dev/null; true").strip(), 120)
    assert guest.sh("cat /tmp/fio.status").strip() == "0", guest.sh("cat /tmp/fio")
    assert "verify" not in guest.sh("grep -i 'verify.*fail' /tmp/fio; true")


def test_it_holds_exactly_what_is_plugged(guest):
    guest.cli("resize", guest.name, "mem0", "256M", "--wait", "--timeout", "120")
    held = back_end(guest)
    assert held["exact"] and held["excess"] == 0 and held["maximum"] == 32764
    guest.cli("resize", guest.name, "mem0", "0", "--wait", "--timeout", "120")
    assert guest.region("mem0")["resident"] == 0


def test_guest_has_nothing_to_complain_of(guest):
    assert not guest.kernel_complaints()
    devices = guest.qmp.command("godwit-devices")
    assert not any(device["violations"] for device in devices)
