# SPDX-License-Identifier: BSD-2-Clause
"""What no kernel would do: mini-guests that run on any KVM, the slow one without stock kernels included."""

import pytest

from support.vm import BUILD, GIB, KIB, MIB, Machine

GUESTS = BUILD / "tests/mini"
LIMIT = 240  # an emulated processor executes a million instructions a second


class MiniGuest(Machine):
    """A machine that runs one of the mini-guests and follows what it reports."""

    def __init__(self, guest, *arguments, cmdline="", **options):
        super().__init__("--kernel", GUESTS / f"{guest}.elf", "--cmdline", cmdline or "mini", "--memory", "32M",
                         "--no-reboot" if options.pop("no_reboot", False) else "--on-crash=exit",
                         *arguments, console=False, **options)
        self.numbers = {}
        self.passed = 0

    def follow(self, until):
        """Hears reports up to the line `until`; fails with the first check that failed."""
        while True:
            line = self.serial.expect(r"^(.+?)\r?\n", LIMIT).group(1)
            assert not line.startswith("FAIL"), f"{line}; before: {self.serial.heard[-1000:]}"
            if line == until:
                return self
            if line.startswith("ok "):
                self.passed += 1
            elif line.rsplit(" ", 1)[-1].isdigit():
                name, value = line.rsplit(" ", 1)
                self.numbers[name] = int(value)

    def checkpoint(self, name):
        return self.follow(f"checkpoint {name}")

    def go_on(self):
        self.serial.send("\n")
        return self

    def finish(self):
        self.follow("done")
        assert self.wait(LIMIT) == 0
        return self


BACKINGS = ["anon", "memfd", "hugetlb-2M", "file"]

# What the host may hold for unplugged memory at most: page tables of the shared range of zeros (2 MiB where the host
# has no huge zero page) and those of the guest, the process's own work, and not one page of guest memory.
BOUND = 4 * MIB + 512 * KIB


@pytest.fixture
def huge_pages():
    """A pool of 2 MiB pages, given back afterwards."""
    path = "/proc/sys/vm/nr_hugepages"
    before = open(path).read()

    def reserve(count):
        open(path, "w").write(str(int(before) + count))
        if int(open(path).read()) < int(before) + count:
            pytest.skip(f"the host has no {count} huge pages to give")

    yield reserve
    open(path, "w").write(before)


@pytest.mark.parametrize("backing", BACKINGS)
def test_unplugged_memory_cannot_be_used(backing, huge_pages, tmp_path):
    if backing == "hugetlb-2M":
        huge_pages(40)
    text = f"file:{tmp_path}/ram" if backing == "file" else backing
    with MiniGuest("absent_memory", "--elastic", f"id=mem0,max=1G,size=512M,backing={text}", "--rng=id=rng0",
                   cmdline="sweep=1073741824 write_step=65536 checkered=64") as guest:
        guest.checkpoint("start")
        before = guest.host_memory()
        mappings = guest.mappings()
        assert guest.region_resident("mem0") == 0
        guest.go_on().checkpoint("reads")
        assert guest.numbers["nonzero"] == 0
        guest.go_on().checkpoint("writes")
        assert guest.numbers["nonzero"] == 0
        memory = region_of(guest, "mem0")
        assert memory["unplugged-writes"] == guest.numbers["writes"] == GIB // 65536
        assert memory["resident"] == 0
        after = guest.host_memory()
        grown = after["Rss"] - before["Rss"] + after["VmPTE"] - before["VmPTE"]
        print(f"{backing}: 1 GiB of unplugged memory swept, the host grew by {grown // KIB} KiB")
        assert grown <= BOUND
        assert guest.qmp.event("MEMORY_UNPLUGGED_ACCESS")["id"] == "mem0"
        guest.go_on().checkpoint("instructions")
        assert guest.region_resident("mem0") == 0
        guest.go_on().checkpoint("checkered")
        assert guest.numbers["wrong"] == 0
        assert region_of(guest, "mem0")["plugged"] == 64 * MIB
        # 32 plugged blocks between 32 holes, and no mapping for any of them: only the range of zeros was added.
        assert guest.mappings() - mappings <= 4
        assert guest.region_resident("mem0") <= 64 * MIB
        guest.go_on().checkpoint("unplugged")
        assert guest.numbers["nonzero"] == 0
        assert guest.region_resident("mem0") == 0
        guest.go_on().finish()


def region_of(guest, ident):
    return next(r for r in guest.qmp.command("godwit-memory")["regions"] if r["id"] == ident)


def test_a_file_gets_its_blocks_back_from_the_disk(tmp_path):
    with MiniGuest("reset", "--elastic", f"id=mem0,max=1G,size=512M,backing=file:{tmp_path}/ram") as guest:
        guest.checkpoint("plugged")
        assert (tmp_path / "ram").stat().st_blocks * 512 == 32 * MIB
        guest.go_on().checkpoint("reset")
        assert (tmp_path / "ram").stat().st_blocks == 0
        guest.go_on().finish()


def test_a_dry_pool_of_huge_pages_is_busy(huge_pages):
    huge_pages(8)
    with MiniGuest("reset", "--elastic", "id=mem0,max=1G,size=512M,backing=hugetlb-2M",
                   cmdline="blocks=4096") as guest:
        # 4096 blocks are more than the device's: an error. The pool holds 8 of the 16 blocks of the next guest.
        line = guest.serial.expect(r"^(ok|FAIL) the first run plugs", LIMIT)
        assert line.group(1) == "FAIL"
    with MiniGuest("reset", "--elastic", "id=mem0,max=1G,size=512M,backing=hugetlb-2M",
                   cmdline="blocks=16") as guest:
        line = guest.serial.expect(r"^(ok|FAIL) the first run plugs", LIMIT)
        assert line.group(1) == "FAIL"
        data = guest.elastic("mem0")
        assert data["size"] == 0
        jobs = region_of(guest, "mem0")
        assert jobs["reason"] == "busy"
        guest.check_alive()


def test_malformed_requests_are_answered_as_specified():
    with MiniGuest("hostile_requests", "--elastic", "id=mem0,max=1G,size=64M") as guest:
        guest.finish()
        assert guest.passed >= 28


@pytest.mark.parametrize("how", ["reset register", "triple fault"])
def test_a_reset_unplugs_everything(how):
    with MiniGuest("reset", "--elastic", "id=mem0,max=1G,size=512M",
                   cmdline=f"blocks=32 triple={int(how == 'triple fault')}") as guest:
        guest.checkpoint("plugged")
        assert guest.elastic("mem0")["size"] == 64 * MIB
        guest.go_on().checkpoint("reset")
        assert guest.elastic("mem0")["size"] == 0
        assert guest.elastic("mem0")["requested-size"] == 512 * MIB
        assert guest.region_resident("mem0") == 0
        guest.qmp.event("RESET")
        guest.go_on().finish()


def test_lying_rings_hurt_only_their_device(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    with MiniGuest("hostile_rings", "--elastic", "id=mem0,max=1G,size=64M", "--disk", disk, "--balloon=id=balloon0",
                   "--rng=id=rng0", "--vsock", f"cid=3,path={tmp_path}/vsock") as guest:
        guest.finish()
        assert guest.numbers["devices"] >= 5
        assert disk.read_bytes() == bytes(MIB)
