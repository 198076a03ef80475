# SPDX-License-Identifier: BSD-2-Clause
"""Stock guests with devices whose work another process does: disks of QEMU's storage daemon, the root file system among them, and
a folder of its virtiofsd, while memory grows and shrinks."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from support.back_ends import image, shared_folder, storage_daemon
from support.stock import StockGuest, wait_until
from support.stock import image as guest_image
from support.vm import MIB

SIZE = 64 * MIB
FIO = ("fio --name=check --filename=/dev/vdb --size=24M --rw=randwrite --bsrange=4k-64k --iodepth=16 --ioengine=libaio "
       "--direct=1 --verify=crc32c --verify_fatal=1 --loops=2")


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="godwit-test-") as name:
        yield Path(name)


def make_tree(root):
    """Files of many sizes, in folders."""
    for index in range(40):
        path = root / f"folder{index % 5}" / f"file{index}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(index * 7919))


def checksums(root):
    return sorted(f"{hashlib.md5(path.read_bytes()).hexdigest()}  ./{path.relative_to(root)}"
                  for path in root.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def disk(folder):
    with storage_daemon(folder, image(folder / "disk", SIZE), queues=2) as back_end:
        yield back_end.start()


@pytest.fixture(scope="module")
def root(folder):
    with storage_daemon(folder, guest_image("rootfs", "6.12-cloud", str(folder / "root"), "512M")) as back_end:
        yield back_end.start()


@pytest.fixture(scope="module")
def guest(folder, root, disk):
    shared = folder / "shared"
    shared.mkdir()
    make_tree(shared)
    with shared_folder(folder, shared) as files:
        files.start()
        with StockGuest("--disk", f"vhost-user:{root.socket},id=root", "--disk", f"vhost-user:{disk.socket},queues=2,id=data",
                        "--fs", f"vhost-user:{files.socket},tag=shared", "--elastic", "id=mem0,max=1G", cpus=2,
                        cmdline="root=/dev/vda") as vm:
            yield vm.wait_ready()


def back_end(guest, ident):
    return next(item for item in guest.qmp.command("godwit-memory")["back-ends"] if item["id"] == ident)


def test_disk_is_as_large_as_the_back_end_says_and_has_its_queues(guest):
    assert int(guest.sh("cat /sys/block/vdb/size")) * 512 == SIZE
    assert guest.sh("ls /sys/block/vdb/mq").split() == ["0", "1"]


def test_written_data_is_read_while_memory_grows_and_shrinks(guest):
    guest.sh(f"({FIO} >/tmp/fio 2>&1; echo $? >/tmp/fio.status) &")
    sizes = [128, 384, 64, 256]
    rounds = 0
    while not guest.sh("cat /tmp/fio.status 2>/dev/null; true").strip():
        guest.cli("resize", guest.name, "mem0", f"{sizes[rounds % len(sizes)]}M", "--wait", "--timeout", "120")
        for ident in ("root", "data", "fs"):
            held = back_end(guest, ident)
            assert held["slots"] <= held["maximum"] == 32
        rounds += 1
    assert rounds >= 2
    assert guest.sh("cat /tmp/fio.status").strip() == "0", guest.sh("cat /tmp/fio")
    assert "verify" not in guest.sh("grep -i 'verify.*fail' /tmp/fio; true")
    guest.cli("resize", guest.name, "mem0", "0", "--wait", "--timeout", "120")
    assert guest.region("mem0")["resident"] == 0


def test_folder_is_the_same_on_both_sides(guest, folder):
    shared = folder / "shared"
    guest.cli("resize", guest.name, "mem0", "256M", "--wait", "--timeout", "120")
    guest.sh("mkdir -p /mnt/shared && mount -t virtiofs shared /mnt/shared")
    seen = guest.sh("cd /mnt/shared && find . -type f -exec md5sum {} +")
    assert sorted(seen.splitlines()) == checksums(shared)
    guest.sh("mkdir /mnt/shared/new && cd /mnt/shared/new && for i in $(seq 20); do "
             "head -c $((i * 50000)) /dev/urandom > file$i; done && sync")
    seen = guest.sh("cd /mnt/shared && find . -type f -exec md5sum {} +")
    assert sorted(seen.splitlines()) == checksums(shared)
    guest.sh("umount /mnt/shared")


def test_disk_goes_on_with_the_next_back_end(guest, disk):
    guest.sh("dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null && "
             "dd if=/tmp/data of=/dev/vdb bs=1M oflag=direct 2>/dev/null")
    disk.kill()
    wait_until(lambda: not back_end(guest, "data")["connected"], 60)
    disk.start()
    wait_until(lambda: back_end(guest, "data")["connected"], 60)
    assert guest.sh("dd if=/dev/vdb bs=1M count=8 iflag=direct 2>/dev/null | cmp - /tmp/data && echo same").strip() == "same"


def test_disk_works_after_a_reboot(guest):
    guest.reboot()
    assert int(guest.sh("cat /sys/block/vdb/size")) * 512 == SIZE
    guest.sh("dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null && dd if=/tmp/data of=/dev/vdb bs=1M oflag=direct "
             "2>/dev/null && dd if=/dev/vdb bs=1M count=4 iflag=direct 2>/dev/null | cmp - /tmp/data")


def test_guest_has_nothing_to_complain_of(guest):
    assert not guest.kernel_complaints()
    devices = {device["id"]: device for device in guest.qmp.command("godwit-devices")}
    assert not any(device["violations"] for device in devices.values())


def test_guest_waits_for_a_disk_that_comes_later(folder):
    with storage_daemon(folder, image(folder / "late", SIZE)) as late:
        late.socket.unlink(missing_ok=True)
        with StockGuest("--disk", f"vhost-user:{late.socket}") as vm:
            assert not back_end(vm, "disk")["connected"]
            late.start()
            vm.wait_ready()
            assert int(vm.sh("cat /sys/block/vda/size")) * 512 == SIZE
