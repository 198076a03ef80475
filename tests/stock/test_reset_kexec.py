# SPDX-License-Identifier: BSD-2-Clause
"""Elastic memory when the guest's kernel ends and another one starts: reset, kexec, crash."""

import base64
import struct

import pytest

from support import second_kernel
from support.stock import CLOUD, MOVABLE, StockGuest, wait_until
from support.vm import GIB, MIB

NO_DRIVER = "godwit.nomodules=virtio_mem"
INSERT_DRIVER = "insmod /modules/virtio_mem.ko"
# What the host may grow by while a guest reads unplugged memory, as docs/elastic-memory.md has it.
BOUND = 9 * MIB // 2
MARK = "this was in the memory of the guest that crashed"


def use(guest, megabytes):
    """Makes the guest write that much memory and read it back; it is free again afterwards."""
    guest.sh(f"mkdir -p /used && mount -t tmpfs -o size={megabytes + 8}M tmpfs /used && "
             f"head -c {megabytes}m /dev/urandom >/used/x && a=$(md5sum </used/x) && [ \"$a\" = \"$(md5sum </used/x)\" ]; "
             "s=$?; umount /used; exit $s")


def has_total(guest, expected):
    """What a kernel keeps to itself of boot memory differs by some pages from one start of it to the next."""
    return abs(guest.mem_total() - expected) < MIB


def wait_total(guest, expected):
    wait_until(lambda: has_total(guest, expected), 30, lambda: f"MemTotal is {guest.mem_total()}, not {expected}")


def reset(guest):
    """As an operator does it, not the guest."""
    guest.cli("reset", guest.name)
    guest.qmp.event("RESET")


class TestReset:
    """A guest with the driver, reset over and over. Both kernels are reset in test_composition.py."""

    @pytest.fixture(scope="class")
    def guest(self):
        with StockGuest("--elastic", "id=mem0,max=2G", "--elastic", "id=mem1,max=2G,node=1,block=4M") as guest:
            guest.qmp
            guest.wait_ready()
            guest.boot_total = guest.mem_total()
            yield guest

    def test_after_a_reboot_each_device_gets_its_requested_size_back(self, guest):
        guest.resize("mem0", 384 * MIB)
        guest.resize("mem1", 132 * MIB)
        use(guest, 64)
        guest.reboot()
        guest.wait_size("mem0", 384 * MIB)
        guest.wait_size("mem1", 132 * MIB)
        wait_total(guest, guest.boot_total + 516 * MIB)
        use(guest, 64)

    def test_after_an_operators_reset_too(self, guest):
        guest.resize("mem0", 258 * MIB)
        guest.resize("mem1", 0)
        reset(guest)
        guest.wait_ready()
        guest.wait_size("mem0", 258 * MIB)
        wait_total(guest, guest.boot_total + 258 * MIB)
        assert guest.elastic("mem1")["size"] == 0
        assert guest.region_resident("mem1") == 0

    def test_a_reset_gives_all_memory_back_to_the_host(self, guest):
        use(guest, 64)
        assert guest.region_resident("mem0") > 48 * MIB
        guest.qmp.command("stop")
        guest.qmp.command("system_reset")
        assert guest.elastic("mem0")["size"] == 0
        assert guest.region_resident("mem0") == 0
        guest.qmp.command("cont")
        guest.wait_ready()
        guest.wait_size("mem0", 258 * MIB)

    def test_a_reset_in_the_middle_of_growing_does_not_disturb_it(self, guest):
        guest.resize("mem0", 0)
        job = guest.qmp.command("godwit-resize", id="mem0", size=2 * GIB)["job"]
        wait_until(lambda: guest.elastic("mem0")["size"] > 0, 30)
        guest.qmp.command("system_reset")
        guest.wait_ready()
        guest.wait_size("mem0", 2 * GIB)
        wait_until(lambda: {j["id"]: j for j in guest.qmp.command("query-jobs")}[job]["status"] == "concluded", 10)
        wait_total(guest, guest.boot_total + 2 * GIB)
        use(guest, 64)

    def test_a_reset_in_the_middle_of_shrinking_ends_it(self, guest):
        guest.qmp.command("godwit-resize", id="mem0", size=128 * MIB)
        guest.qmp.command("system_reset")
        guest.wait_ready()
        guest.wait_size("mem0", 128 * MIB)
        wait_total(guest, guest.boot_total + 128 * MIB)

    def test_the_kernel_complained_of_nothing(self, guest):
        assert guest.kernel_complaints() == []


class TestWithoutTheDriver:
    """A guest whose kernel comes up without the driver; a test loads it by hand."""

    @pytest.fixture(scope="class", params=CLOUD)
    def guest(self, request):
        with StockGuest("--elastic", "id=mem0,max=1G,size=256M", cmdline=NO_DRIVER, kernel=request.param) as guest:
            guest.qmp
            guest.wait_ready()
            guest.boot_total = guest.mem_total()
            yield guest

    def test_a_kernel_without_the_driver_sees_boot_memory_only(self, guest):
        # A kernel with the driver was there before.
        guest.sh(INSERT_DRIVER)
        guest.wait_size("mem0", 256 * MIB)
        wait_total(guest, guest.boot_total + 256 * MIB)
        use(guest, 64)
        assert guest.region_resident("mem0") > 48 * MIB
        guest.reboot()
        assert has_total(guest, guest.boot_total), guest.mem_total()
        assert guest.elastic("mem0")["size"] == 0 and guest.elastic("mem0")["requested-size"] == 256 * MIB
        assert guest.region("mem0")["reason"] == "no-driver"
        assert guest.region_resident("mem0") == 0
        assert "System RAM (virtio_mem)" not in guest.sh("cat /proc/iomem")

    def test_it_reads_zeros_there_and_its_writes_do_not_stick(self, guest):
        before, start = guest.region("mem0"), guest.elastic("mem0")["memaddr"]
        for address in (start, start + 0x12345678, start + GIB - 4096):
            assert int(guest.sh(f"devmem {address} 64"), 16) == 0
            guest.sh(f"devmem {address} 64 0x1122334455667788")
            assert int(guest.sh(f"devmem {address} 64"), 16) == 0
        after = guest.region("mem0")
        assert after["unplugged-writes"] == before["unplugged-writes"] + 3
        assert after["unplugged-reads"] > before["unplugged-reads"]
        assert after["resident"] == 0
        assert guest.qmp.event("MEMORY_UNPLUGGED_ACCESS")["id"] == "mem0"

    def test_the_driver_gets_the_requested_size_when_it_comes(self, guest):
        guest.sh(INSERT_DRIVER)
        guest.wait_size("mem0", 256 * MIB)
        wait_total(guest, guest.boot_total + 256 * MIB)
        use(guest, 64)
        assert guest.kernel_complaints() == []


class TestKexec:
    """One kernel starts another, which finds memory plugged that it knows nothing of."""

    KERNEL = "6.1-cloud"

    @pytest.fixture(scope="class")
    def guest(self):
        with StockGuest(*second_kernel.disks(self.KERNEL), "--elastic", "id=mem0,max=1G",
                        "--elastic", "id=mem1,max=1G,node=1", kernel=self.KERNEL, tools=("kexec",)) as guest:
            guest.wait_ready()
            guest.boot_total = guest.mem_total()
            yield guest

    def test_the_second_kernels_driver_starts_over(self, guest):
        guest.resize("mem0", 320 * MIB)
        guest.resize("mem1", 128 * MIB)
        use(guest, 64)
        before = guest.sh("cat /proc/sys/kernel/random/boot_id")
        # The second kernel comes up from kexec-tools' loader, the next test's from the kernel's.
        second_kernel.load(guest, self.KERNEL, MOVABLE, classic=True)
        second_kernel.start(guest)
        assert guest.sh("cat /proc/sys/kernel/random/boot_id") != before
        guest.wait_size("mem0", 320 * MIB)
        guest.wait_size("mem1", 128 * MIB)
        wait_until(lambda: guest.nodes().get(1) == 128 * MIB, 30, guest.nodes)
        # This initial file system has no kexec in it; else boot memory is the same.
        assert abs(guest.mem_total() - guest.boot_total - 448 * MIB) < 2 * MIB
        use(guest, 64)
        guest.resize("mem1", 0)
        guest.resize("mem0", 512 * MIB)
        assert guest.kernel_complaints() == []

    def test_a_second_kernel_without_the_driver_sees_boot_memory_only(self, guest):
        guest.reboot()
        guest.wait_size("mem0", 512 * MIB)
        second_kernel.load(guest, self.KERNEL, f"{MOVABLE} {NO_DRIVER}")
        second_kernel.start(guest)
        assert abs(guest.mem_total() - guest.boot_total) < 2 * MIB
        # Nobody told the host that the first kernel's memory is no longer in use.
        assert guest.elastic("mem0")["size"] == 512 * MIB
        assert guest.region("mem0")["reason"] in ("no-driver", "ready")
        guest.sh(INSERT_DRIVER)
        wait_until(lambda: abs(guest.mem_total() - guest.boot_total - 512 * MIB) < 2 * MIB, 60, guest.mem_total)
        assert guest.elastic("mem0")["size"] == 512 * MIB
        use(guest, 64)
        guest.resize("mem0", 0)
        assert guest.region_resident("mem0") == 0
        assert guest.kernel_complaints() == []


@pytest.mark.parametrize("first, second", [CLOUD, CLOUD[::-1]])
def test_one_kernel_starts_the_other(first, second):
    with StockGuest(*second_kernel.disks(second), "--elastic", "id=mem0,max=1G", kernel=first, tools=("kexec",)) as guest:
        guest.wait_ready()
        guest.resize("mem0", 192 * MIB)
        assert guest.sh("uname -r").startswith(first.split("-")[0])
        second_kernel.load(guest, second, MOVABLE)
        second_kernel.start(guest)
        assert guest.sh("uname -r").startswith(second.split("-")[0])
        guest.wait_size("mem0", 192 * MIB)
        wait_until(lambda: guest.mem_total() > 384 * MIB, 30, guest.mem_total)
        use(guest, 64)
        guest.resize("mem0", 0)
        assert guest.kernel_complaints() == []


def dump_segments(guest, first, size):
    """Parts of /proc/vmcore that lie in a range of guest addresses, as (address, offset in the file, length)."""
    head = base64.b64decode(guest.sh("head -c 4096 /proc/vmcore | base64"))
    start, = struct.unpack_from("<Q", head, 32)
    entry_size, count = struct.unpack_from("<HH", head, 54)
    segments = []
    for number in range(count):
        kind, _, offset, _, address, length = struct.unpack_from("<IIQQQQ", head, start + number * entry_size)
        if kind == 1 and first <= address < first + size:
            segments.append((address, offset, length))
    return segments


def count_in_dump(guest, segments, first, last, what):
    """Pipes what the dump has of a range of addresses into a command; the sum of what it prints."""
    total = 0
    for address, offset, length in segments:
        low, high = max(address, first), min(address + length, last)
        if low < high:
            total += int(guest.sh(f"dd if=/proc/vmcore bs=4096 skip={(offset + low - address) // 4096} "
                                  f"count={(high - low) // 4096} 2>/dev/null | {what}"))
    return total


@pytest.mark.parametrize("kernel, backing, driver", [
    ("6.12-cloud", "hugetlb-2M", False), ("6.12-cloud", "memfd", True), ("6.1-cloud", "memfd", False)])
def test_a_crash_dump_reads_zeros_where_nothing_is_plugged(huge_pages, kernel, backing, driver):
    """Linux' driver hides what is unplugged from a dump; without it the crash kernel reads it all."""
    if backing == "hugetlb-2M":
        huge_pages(256)
    with StockGuest(*second_kernel.disks(kernel), "--elastic", f"id=mem0,max=1G,backing={backing}", kernel=kernel,
                    cmdline=f"{second_kernel.CRASH_MEMORY} crash_kexec_post_notifiers", tools=("kexec",),
                    memory="384M,backing=hugetlb") as guest:
        guest.wait_ready()
        # The crash kernel is told of memory that is then taken away, and of a memory block that is half there.
        guest.resize("mem0", 512 * MIB)
        second_kernel.load(guest, kernel, f"init_on_alloc=0 nr_cpus=1 {'' if driver else NO_DRIVER}", crash=True)
        guest.resize("mem0", 0)
        plugged = guest.resize("mem0", 192 * MIB)
        guest.sh("mkdir /marked && mount -t tmpfs -o size=96M tmpfs /marked && "
                 f"yes '{MARK}' | head -c 32m >/marked/x")
        second_kernel.crash(guest)
        assert guest.qmp.event("GUEST_CRASHLOADED")["action"] == "run"
        assert guest.elastic("mem0")["size"] == plugged

        before, held = guest.host_memory(), guest.region_resident("mem0")
        start = guest.elastic("mem0")["memaddr"]
        segments = dump_segments(guest, start, GIB)
        described = sum(length for _, _, length in segments)
        assert described >= 256 * MIB
        # A guest that grows does so from the lowest address on.
        lines = count_in_dump(guest, segments, start, start + plugged, f"tr -d '\\0' | grep -c '{MARK}'")
        assert lines > 16 * MIB // len(MARK)
        assert count_in_dump(guest, segments, start + plugged, start + GIB, "tr -d '\\0' | wc -c") == 0

        after = guest.host_memory()
        read_in = guest.region_resident("mem0") - held  # plugged memory that nobody had touched before
        assert guest.region_resident("mem0") <= plugged
        grown = after["Rss"] + after["VmPTE"] - before["Rss"] - before["VmPTE"]
        assert grown <= BOUND + (read_in if backing == "memfd" else 0)
        region = guest.region("mem0")
        assert (region["unplugged-reads"] > 0) == (not driver)
        assert region["unplugged-writes"] == 0
        assert guest.kernel_complaints() == []
