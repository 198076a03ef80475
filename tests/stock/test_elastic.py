# SPDX-License-Identifier: BSD-2-Clause
"""Elastic memory as an operator and a stock guest see it: it grows, shrinks, and says why when it does not."""

import os
import tempfile
from pathlib import Path

import pytest

from support.stock import CLOUD, StockGuest, near, wait_until
from support.vm import GIB, KIB, MIB

# Devices of one guest that hold every backing and block size; all are empty unless a test fills one.
KINDS = [(backing, block) for backing in ("memfd", "anon", "file") for block in ("4K", "2M", "4M", "128M")]
KINDS += [("hugetlb-2M", block) for block in ("2M", "4M", "128M")]


def ident_of(backing, block):
    return f"{backing}-{block}"


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="godwit-test-") as name:
        yield Path(name)


class TestOperator:
    """What an operator sees who asks for memory, with both kernels."""

    @pytest.fixture(scope="class", params=CLOUD)
    def guest(self, request):
        with StockGuest("--elastic", "id=mem0,max=4G", "--elastic", "id=mem1,max=4G,node=1",
                        kernel=request.param) as guest:
            yield guest.wait_ready()

    def test_memory_grows_and_shrinks_and_the_guest_follows(self, guest):
        start = guest.mem_total()
        for size in (GIB, 1536 * MIB, 3 * GIB, 128 * MIB, 0):
            guest.resize("mem0", size)
            wait_until(lambda: guest.mem_total() == start + size, 30,
                       lambda: f"MemTotal is {guest.mem_total()}, not {start} + {size}")
        assert guest.kernel_complaints() == []

    def test_host_memory_follows_at_once(self, guest):
        before = guest.host_memory()["Rss"]
        guest.resize("mem0", 256 * MIB)
        assert guest.region_resident("mem0") < 4 * MIB  # plugged, and nobody has used it
        guest.sh("mkdir -p /big && mount -t tmpfs -o size=128M tmpfs /big && "
                 "dd if=/dev/urandom of=/big/x bs=1M count=64 2>/dev/null; rm /big/x")
        held = guest.region_resident("mem0")
        assert held >= 60 * MIB
        assert guest.host_memory()["Rss"] >= before + 60 * MIB
        guest.resize("mem0", 0)
        assert guest.region_resident("mem0") == 0
        assert guest.host_memory()["Rss"] < before + 8 * MIB

    def test_shrinking_moves_data_that_is_in_use(self, guest):
        guest.resize("mem0", 512 * MIB)
        guest.sh("umount /big 2>/dev/null; mkdir -p /big && mount -t tmpfs -o size=128M tmpfs /big && "
                 "dd if=/dev/urandom of=/big/x bs=1M count=32 2>/dev/null")
        before = guest.sh("md5sum </big/x")
        assert guest.region_resident("mem0") >= 30 * MIB
        guest.resize("mem0", 0)
        assert guest.region_resident("mem0") == 0
        assert guest.sh("md5sum </big/x") == before
        guest.sh("umount /big")

    def test_devices_appear_on_their_nodes(self, guest):
        start = guest.nodes()
        guest.resize("mem0", 256 * MIB)
        guest.resize("mem1", 384 * MIB)
        wait_until(lambda: guest.nodes().get(1) == start.get(1, 0) + 384 * MIB, 30, guest.nodes)
        assert guest.nodes()[0] == start[0] + 256 * MIB
        guest.resize("mem0", 0)
        guest.resize("mem1", 0)
        wait_until(lambda: guest.nodes().get(1, 0) == start.get(1, 0), 30, guest.nodes)
        assert guest.nodes()[0] == start[0]

    def test_a_newer_request_replaces_an_older_one(self, guest):
        first = guest.qmp.command("godwit-resize", id="mem0", size=4 * GIB)["job"]
        second = guest.qmp.command("godwit-resize", id="mem0", size=512 * MIB)["job"]
        guest.wait_size("mem0", 512 * MIB)
        jobs = {job["id"]: job for job in guest.qmp.command("query-jobs")}
        assert jobs[first]["status"] == "concluded" and jobs[first]["error"].startswith("replaced")
        wait_until(lambda: {job["id"]: job for job in guest.qmp.command("query-jobs")}[second]["status"] ==
                   "concluded", 10)
        assert "error" not in jobs[second]
        guest.resize("mem0", 0)

    def test_events_tell_each_size_that_is_reached(self, guest):
        guest.qmp.events.clear()
        guest.resize("mem0", 256 * MIB)
        data = guest.qmp.event("MEMORY_DEVICE_SIZE_CHANGE", matching=lambda data: data["size"] == 256 * MIB)
        assert data["id"] == "mem0" and data["qom-path"] == "/machine/peripheral/mem0"
        guest.resize("mem0", 0)
        guest.qmp.event("MEMORY_DEVICE_SIZE_CHANGE", matching=lambda data: data["size"] == 0)

    def test_sizes_that_cannot_be_are_refused(self, guest):
        assert "multiple" in guest.qmp.raw("godwit-resize", id="mem0", size=MIB)["error"]["desc"]
        assert "4 GiB" in guest.qmp.raw("godwit-resize", id="mem0", size=8 * GIB)["error"]["desc"].replace("4G", "4 GiB")
        assert guest.qmp.raw("godwit-resize", id="mem7", size=0)["error"]["class"] == "DeviceNotFound"
        assert guest.elastic("mem0")["requested-size"] == 0

    def test_the_kernel_complained_of_nothing(self, guest):
        assert guest.kernel_complaints() == []


class TestKinds:
    """Every backing with every block size, in one guest that has them all."""

    @pytest.fixture(scope="class")
    def guest(self, folder):
        devices = []
        for backing, block in KINDS:
            ident = ident_of(backing, block)
            text = f"file:{folder}/{ident}" if backing == "file" else backing
            devices += ["--elastic", f"id={ident},max=1G,block={block},backing={text}"]
        with StockGuest(*devices) as guest:
            yield guest.wait_ready()

    @pytest.mark.parametrize("backing, block", KINDS)
    def test_every_backing_works_with_every_block_size(self, guest, huge_pages, folder, backing, block):
        ident = ident_of(backing, block)
        if backing.startswith("hugetlb"):
            huge_pages(128)
        start = guest.mem_total()
        guest.resize(ident, 256 * MIB)
        assert guest.elastic(ident)["block-size"] == {"4K": 4 * KIB, "2M": 2 * MIB, "4M": 4 * MIB, "128M": 128 * MIB}[block]
        wait_until(lambda: guest.mem_total() == start + 256 * MIB, 30, guest.mem_total)
        # Where the host could run dry, all is certain from the moment it is plugged: in the pool, or on the disk.
        if backing == "hugetlb-2M":
            assert guest.region_resident(ident) == 256 * MIB
        if backing == "file":
            assert 512 * (folder / ident).stat().st_blocks >= 256 * MIB
        guest.sh("mkdir -p /big && mount -t tmpfs -o size=64M tmpfs /big && "
                 "dd if=/dev/urandom of=/big/x bs=1M count=8 2>/dev/null")
        before = guest.sh("md5sum </big/x")
        assert guest.region_resident(ident) >= 7 * MIB
        guest.resize(ident, 0)
        assert guest.region_resident(ident) == 0
        assert guest.sh("md5sum </big/x && umount /big") == before
        assert guest.mem_total() == start
        if backing == "file":
            assert (folder / ident).stat().st_blocks == 0

    def test_a_dry_pool_of_huge_pages_is_busy_until_pages_are_added(self, guest, huge_pages):
        ident = ident_of("hugetlb-2M", "2M")
        free = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("HugePages_Free"))
        huge_pages(max(0, 96 - free))
        room = max(96, free) * 2 * MIB
        size = (room + 128 * MIB) // (128 * MIB) * (128 * MIB)
        guest.qmp.command("godwit-resize", id=ident, size=size)
        guest.wait_reason(ident, "busy")
        assert 0 < guest.elastic(ident)["size"] <= room
        assert guest.sh("echo still here") == "still here"
        huge_pages(64)
        guest.wait_size(ident, size)
        guest.wait_reason(ident, "ready")
        guest.resize(ident, 0)

    def test_a_full_file_system_is_busy_until_there_is_room(self, guest, folder):
        ident = ident_of("file", "2M")
        ballast = folder / "ballast"
        state = os.statvfs(folder)  # its f_bfree: the superuser may use what is reserved, too
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, state.f_bfree * state.f_frsize - 192 * MIB)
        guest.qmp.command("godwit-resize", id=ident, size=384 * MIB)
        guest.wait_reason(ident, "busy")
        assert guest.elastic(ident)["size"] < 384 * MIB
        assert guest.sh("echo still here") == "still here"
        ballast.unlink()
        guest.wait_size(ident, 384 * MIB)
        guest.wait_reason(ident, "ready")
        guest.resize(ident, 0)

    def test_the_kernel_complained_of_nothing(self, guest):
        assert guest.kernel_complaints() == []


def test_pages_of_1_gib_make_blocks_of_1_gib(huge_pages):
    pool = Path("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages")
    pool.write_text("1")
    try:
        if int(pool.read_text()) < 1:
            pytest.skip("the host has no huge page of 1 GiB to give")
        with StockGuest("--elastic", "id=mem0,max=3G,backing=hugetlb-1G") as guest:
            guest.wait_ready()
            start = guest.mem_total()
            guest.resize("mem0", GIB)
            wait_until(lambda: guest.mem_total() == start + GIB, 30, guest.mem_total)
            assert guest.region_resident("mem0") == GIB
            guest.qmp.command("godwit-resize", id="mem0", size=2 * GIB)
            guest.wait_reason("mem0", "busy")
            guest.resize("mem0", 0)
            assert guest.region_resident("mem0") == 0
            assert guest.kernel_complaints() == []
    finally:
        pool.write_text("0")


def test_a_guest_that_uses_the_memory_for_itself_refuses():
    # Boot memory below 4 GiB is in zone DMA32; what the kernel allocates for good goes to the elastic memory above.
    with StockGuest("--elastic", "id=mem0,max=1G",
                    memory_options="init_on_alloc=0 memhp_default_state=online_kernel") as guest:
        guest.wait_ready()
        guest.resize("mem0", 256 * MIB)
        guest.sh("mkdir /many; mount -t tmpfs tmpfs /many; i=0; "
                 "while [ $i -lt 2000 ]; do : >/many/$i; i=$((i+1)); done")
        guest.qmp.command("godwit-resize", id="mem0", size=0)
        guest.wait_reason("mem0", "guest-refuses")
        left = guest.elastic("mem0")["size"]
        assert 0 < left <= 256 * MIB
        job = guest.qmp.command("query-jobs")[-1]
        assert job["status"] == "running" and job["reason"] == "guest-refuses" and job["plugged"] == left
        assert guest.sh("ls /many | wc -l") == "2000"
        # What the operator takes back is done.
        guest.resize("mem0", 256 * MIB)
        guest.wait_reason("mem0", "ready")


class TestGuestThatDoesNotHelp:
    """A guest that starts without the driver and never brings memory online."""

    @pytest.fixture(scope="class")
    def guest(self):
        with StockGuest("--elastic", "id=mem0,max=4G", cmdline="godwit.nomodules=virtio_mem", kernel="6.1-cloud",
                        memory_options="init_on_alloc=0 memhp_default_state=offline") as guest:
            yield guest.wait_ready()

    def test_without_a_driver_nothing_is_plugged_and_the_reason_says_so(self, guest):
        guest.qmp.command("godwit-resize", id="mem0", size=256 * MIB)
        guest.wait_reason("mem0", "no-driver")
        assert guest.elastic("mem0")["size"] == 0

    def test_a_driver_that_comes_later_finds_the_request(self, guest):
        guest.sh("insmod /modules/virtio_mem.ko")
        guest.wait_size("mem0", 256 * MIB)
        guest.wait_reason("mem0", "ready")

    def test_a_guest_that_can_use_no_more_says_so(self, guest):
        start = guest.mem_total()
        guest.qmp.command("godwit-resize", id="mem0", size=3 * GIB)
        guest.wait_reason("mem0", "guest-out-of-memory")
        assert 256 * MIB < guest.elastic("mem0")["size"] < 3 * GIB
        assert guest.mem_total() == start
        # Once it uses what it has, it takes the rest.
        guest.console.send_script("while :; do for f in /sys/devices/system/memory/memory*/state; do "
                                  "grep -q offline $f && echo online_movable >$f; done; "
                                  "[ $(grep MemTotal /proc/meminfo | tr -dc 0-9) -gt 3200000 ] && exit; sleep 1; done")
        guest.wait_size("mem0", 3 * GIB, limit=240)
        guest.console.expect(r"^godwit-done: 0\r?\n", 120)
        assert near(guest.mem_total(), start + 3 * GIB, 0)
