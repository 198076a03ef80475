# SPDX-License-Identifier: BSD-2-Clause
"""Disks of stock guests: data that is verified, and what each operation does to the file in the host."""

import ctypes
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.devices import device
from support.stock import StockGuest, image, wait_until
from support.vm import MIB, Machine

KERNEL = "6.12-cloud"
SYS_CACHESTAT = 451
FIO = "--size=24M --bsrange=4k-64k --iodepth=16 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1"


@pytest.fixture(scope="module")
def folder():
    """On a file system that punches holes and does direct I/O."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="godwit-test-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def small_file_system(folder):
    """Room for 8 MiB, much less than the image on it seems to have."""
    place = folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def make_image(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def allocated(path):
    return path.stat().st_blocks * 512


def dirty_pages(path):
    """Pages of a file that the host has in memory and has not written to the disk (cachestat(2), Linux 6.5)."""
    result = (ctypes.c_uint64 * 5)()
    with open(path, "rb") as file:
        whole = (ctypes.c_uint64 * 2)(0, 0)
        if ctypes.CDLL(None, use_errno=True).syscall(SYS_CACHESTAT, file.fileno(), whole, result, 0):
            pytest.skip(f"this host cannot count dirty pages: {os.strerror(ctypes.get_errno())}")
    return result[1] + result[2]


def write(guest, disk, offset_mib, count_mib):
    """Random data straight to a disk, past the guest's own cache; its checksum."""
    return guest.sh(f"dd if=/dev/urandom of=/tmp/data bs=1M count={count_mib} 2>/dev/null && "
                    f"dd if=/tmp/data of={disk} bs=1M seek={offset_mib} oflag=direct 2>&1 >/dev/null && "
                    "md5sum </tmp/data").split("\n")[-1].split()[0]


def checksum(path, offset_mib, count_mib):
    return subprocess.run(f"dd if={path} bs=1M skip={offset_mib} count={count_mib} 2>/dev/null | md5sum", shell=True,
                          check=True, capture_output=True, text=True).stdout.split()[0]


class TestRunningGuest:
    """One guest whose root file system is on a disk, with a disk for each subject beside it. The last test kills it."""

    @pytest.fixture(scope="class")
    def guest(self, folder, small_file_system):
        with StockGuest("--disk", f"{image('rootfs', KERNEL, str(folder / 'root'), '512M')},queues=2,id=root",
                        "--disk", f"{make_image(folder / 'data', 64 * MIB)},serial=the data disk,id=data",
                        "--disk", f"{make_image(folder / 'fixed', 4 * MIB)},readonly=on,id=fixed",
                        "--disk", f"{make_image(small_file_system / 'small', 64 * MIB)},id=small",
                        "--disk", f"{make_image(folder / 'through', 16 * MIB)},cache=writethrough,id=through",
                        "--disk", f"{make_image(folder / 'direct', 32 * MIB)},direct=on,queues=2,id=direct",
                        kernel=KERNEL, cpus=2, cmdline="root=/dev/vda") as guest:
            yield guest.wait_ready()

    def test_the_root_file_system_is_on_the_disk(self, guest):
        assert re.search(r"^/dev/vda / ext4 rw", guest.sh("cat /proc/mounts"), re.MULTILINE)
        assert guest.sh("cat /sys/block/vda/size") == str(512 * MIB // 512)

    def test_what_is_written_to_files_is_read_back(self, guest):
        guest.sh(f"fio --name=files --directory=/root --rw=randrw --numjobs=2 {FIO} --fsync=64 >/tmp/fio || "
                 "{ tail -n 40 /tmp/fio; exit 1; }")
        assert device(guest, "root")["flushes"] > 0
        guest.sh("rm /root/files*")

    def test_direct_io_in_the_host_reads_back_what_was_written(self, guest):
        guest.sh(f"fio --name=raw --filename=/dev/vdf --rw=randrw {FIO} >/tmp/fio || "
                 "{ tail -n 40 /tmp/fio; exit 1; }")
        assert device(guest, "direct")["direct"] is True
        assert device(guest, "direct")["bytes-written"] >= 8 * MIB

    def test_every_processor_has_a_queue(self, guest):
        assert guest.sh("ls /sys/block/vda/mq").split() == ["0", "1"]
        disk = guest.sh("basename $(readlink -f /sys/block/vdf/device)")
        for cpu in (0, 1):
            line = f"grep '{disk}-req.{cpu}' /proc/interrupts"
            before = sum(map(int, guest.sh(line).split()[1:3]))
            guest.sh(f"taskset {1 << cpu:x} dd if=/dev/vdf of=/dev/null bs=4k count=64 iflag=direct 2>/dev/null")
            assert sum(map(int, guest.sh(line).split()[1:3])) >= before + 32

    def test_the_serial_number_is_as_given(self, guest):
        assert guest.sh("cat /sys/block/vdb/serial") == "the data disk"
        assert guest.sh("cat /sys/block/vda/serial") == "root"

    def test_a_flush_brings_data_to_the_hosts_disk(self, guest, folder):
        assert guest.sh("cat /sys/block/vdb/cache_type") == "write back"
        data = write(guest, "/dev/vdb", 0, 4)
        assert dirty_pages(folder / "data") > 0
        guest.sh("fsync /dev/vdb 2>/dev/null || dd if=/dev/null of=/dev/vdb conv=fsync,notrunc 2>/dev/null")
        assert dirty_pages(folder / "data") == 0
        assert checksum(folder / "data", 0, 4) == data

    def test_a_write_through_disk_needs_no_flush(self, guest, folder):
        assert guest.sh("cat /sys/block/vde/cache_type") == "write through"
        data = write(guest, "/dev/vde", 0, 4)
        assert dirty_pages(folder / "through") == 0
        assert checksum(folder / "through", 0, 4) == data

    def test_the_guest_may_choose_to_write_through(self, guest, folder):
        guest.sh("echo write through >/sys/block/vdb/cache_type")
        write(guest, "/dev/vdb", 8, 4)
        assert dirty_pages(folder / "data") == 0
        guest.sh("echo write back >/sys/block/vdb/cache_type")
        write(guest, "/dev/vdb", 8, 4)
        assert dirty_pages(folder / "data") > 0

    def test_discarded_ranges_go_back_to_the_host(self, guest, folder):
        write(guest, "/dev/vdb", 16, 16)
        guest.sh("sync; dd if=/dev/null of=/dev/vdb conv=fsync,notrunc 2>/dev/null")
        before = allocated(folder / "data")
        guest.sh(f"blkdiscard -o {16 * MIB} -l {8 * MIB} /dev/vdb")
        assert before - allocated(folder / "data") >= 8 * MIB
        assert device(guest, "data")["discards"] > 0
        zeros = guest.sh("dd if=/dev/vdb bs=1M skip=16 count=8 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c")
        assert zeros == "0"

    def test_trimming_a_file_system_makes_the_image_smaller(self, guest, folder):
        guest.sh("dd if=/dev/urandom of=/root/big bs=1M count=32 2>/dev/null && sync")
        before = allocated(folder / "root")
        guest.sh("rm /root/big && sync && fstrim /")
        wait_until(lambda: allocated(folder / "root") <= before - 30 * MIB, 20,
                   lambda: f"{before} bytes became {allocated(folder / 'root')}")

    def test_a_read_only_disk_refuses_writes(self, guest, folder):
        assert guest.sh("cat /sys/block/vdc/ro") == "1"
        guest.sh("! dd if=/dev/zero of=/dev/vdc bs=4k count=1 oflag=direct 2>/dev/null")
        guest.sh("dd if=/dev/vdc of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null")
        assert allocated(folder / "fixed") == 0

    def test_a_full_host_is_an_error_of_the_guests_request_alone(self, guest, small_file_system):
        output = guest.sh("dd if=/dev/urandom of=/dev/vdd bs=1M count=16 oflag=direct 2>&1; true")
        assert re.search("I/O error|Input/output error|No space left", output), output
        assert device(guest, "small")["failed"] > 0
        assert "needs-reset" not in device(guest, "small")["status"]
        assert guest.sh("dd if=/dev/vdd of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null; echo still here") == \
            "still here"
        # Nothing has to be started again once there is room.
        subprocess.run(["mount", "-o", "remount,size=32M", small_file_system], check=True)
        data = write(guest, "/dev/vdd", 0, 16)
        assert checksum(small_file_system / "small", 0, 16) == data

    def test_two_machines_do_not_share_a_disk(self, guest, folder):
        with Machine("--kernel", image("kernel", KERNEL), "--memory", "64M,backing=anon",
                     "--disk", folder / "data") as second:
            assert second.wait() != 0
            assert "data" in second.stderr() and "use" in second.stderr()

    def test_what_the_guest_synchronised_survives_the_end_of_the_vmm(self, guest, folder):
        flushes = device(guest, "root")["flushes"]
        data = guest.sh("dd if=/dev/urandom of=/root/kept bs=1M count=4 2>/dev/null && md5sum </root/kept && sync")
        assert device(guest, "root")["flushes"] > flushes
        guest.process.kill()
        guest.process.wait()
        with StockGuest("--disk", f"{folder / 'root'},id=root", kernel=KERNEL, cmdline="root=/dev/vda") as again:
            again.wait_ready()
            assert again.sh("md5sum </root/kept") == data
            assert again.kernel_complaints() == []
            assert again.power_off() == 0
