# SPDX-License-Identifier: BSD-2-Clause
"""The balloon of a stock guest (inflating, statistics, free page reporting), and its source of randomness."""

import pytest

from support.devices import device
from support.stock import StockGuest, near, wait_until
from support.vm import KIB, MIB

# Huge pages of a pool do not go back one by one: the memory that is given back here is ordinary.
MEMORY = 384 * MIB


def boot(*arguments):
    return StockGuest(*arguments, memory=f"{MEMORY // MIB}M,backing=memfd")


def use_and_free(guest, mib):
    """Makes the guest touch so much memory, and free it; what the host held at most."""
    guest.sh("mkdir -p /big && mount -t tmpfs -o size=90% tmpfs /big && "
             f"dd if=/dev/zero of=/big/x bs=1M count={mib} 2>/dev/null")
    held = guest.region_resident("memory0")
    guest.sh("umount /big")
    return held


def said(guest, name):
    """A line of the guest's own /proc/meminfo, in bytes."""
    return int(guest.sh(f"grep ^{name}: /proc/meminfo").split()[1]) * KIB


def wait_size(guest, size):
    wait_until(lambda: guest.qmp.command("query-balloon")["actual"] == size, 120,
               lambda: f"the guest has {guest.qmp.command('query-balloon')}, not {size}")


class TestInflating:
    """Without free page reporting, so that it is the balloon that gives memory back."""

    @pytest.fixture(scope="class")
    def guest(self):
        with boot("--balloon", "reporting=off,statistics=1,id=balloon0", "--rng=id=rng0") as guest:
            yield guest.wait_ready()

    def test_the_guest_starts_with_an_empty_balloon(self, guest):
        assert guest.qmp.command("query-balloon")["actual"] == MEMORY
        assert device(guest, "balloon0")["target"] == 0

    def test_inflating_gives_memory_back_to_the_host(self, guest):
        held = use_and_free(guest, 200)
        assert held >= 200 * MIB
        assert guest.region_resident("memory0") >= 200 * MIB  # nothing goes back by itself
        before = said(guest, "MemFree")
        guest.qmp.command("balloon", value=MEMORY - 160 * MIB)
        wait_size(guest, MEMORY - 160 * MIB)
        # MemTotal stays: the guest may take memory back from a balloon that deflates when there is none left.
        assert near(said(guest, "MemFree"), before - 160 * MIB, 16 * MIB)
        assert guest.region_resident("memory0") <= MEMORY - 160 * MIB
        assert device(guest, "balloon0")["inflated"]["returned"] >= 160 * MIB

    def test_deflating_lets_the_guest_use_the_memory_again(self, guest):
        low = guest.region_resident("memory0")
        guest.qmp.command("balloon", value=MEMORY)
        wait_size(guest, MEMORY)
        assert use_and_free(guest, 200) > low
        assert device(guest, "balloon0")["actual"] == 0
        assert guest.kernel_complaints() == []

    def test_a_guest_that_runs_out_of_memory_takes_it_from_the_balloon(self, guest):
        guest.qmp.command("balloon", value=MEMORY - 160 * MIB)
        wait_size(guest, MEMORY - 160 * MIB)
        guest.sh("mkdir -p /big && mount -t tmpfs -o size=90% tmpfs /big && mount -o remount,size=230M /big && "
                 "dd if=/dev/zero of=/big/x bs=1M count=220 2>/dev/null")
        assert guest.qmp.command("query-balloon")["actual"] > MEMORY - 160 * MIB
        assert guest.sh("grep oom_kill /proc/vmstat") == "oom_kill 0"
        guest.sh("umount /big")
        guest.qmp.command("balloon", value=MEMORY)
        wait_size(guest, MEMORY)

    def test_statistics_tell_what_the_guest_says_itself(self, guest):
        def told():
            return guest.qmp.command("godwit-statistics").get("guest", {})

        wait_until(lambda: told().get("total-memory") == said(guest, "MemTotal"), 30, told)
        wait_until(lambda: near(told()["free-memory"], said(guest, "MemFree"), 16 * MIB), 30, told)
        wait_until(lambda: near(told()["available-memory"], said(guest, "MemAvailable"), 16 * MIB), 30, told)
        assert told()["swap-out"] == 0
        free = told()["free-memory"]
        guest.sh("mkdir -p /big && mount -t tmpfs tmpfs /big && dd if=/dev/zero of=/big/x bs=1M count=64 2>/dev/null")
        wait_until(lambda: told()["free-memory"] < free - 48 * MIB, 30, told)
        guest.sh("umount /big")
        wait_until(lambda: told()["free-memory"] > free - 16 * MIB, 30, told)

    def test_statistics_survive_a_reboot(self, guest):
        guest.reboot()
        assert guest.qmp.command("query-balloon")["actual"] == MEMORY
        wait_until(lambda: guest.qmp.command("godwit-statistics").get("guest", {}).get("total-memory", 0) > 0, 30)

    def test_the_random_generator_serves_as_much_as_is_read(self, guest):
        before = device(guest, "rng0")["bytes"]
        # Random bytes do not get smaller, and no block of them comes twice.
        size = guest.sh("dd if=/dev/hwrng bs=4k count=32 iflag=fullblock 2>/dev/null >/tmp/random; "
                        "gzip -c /tmp/random | wc -c; split -b 4096 /tmp/random /tmp/piece. 2>/dev/null; "
                        "cat /sys/class/misc/hw_random/rng_current").split()
        assert int(size[0]) >= 128 * KIB
        assert size[-1].startswith("virtio_rng")
        assert device(guest, "rng0")["bytes"] >= before + 100 * KIB


class TestFreePageReporting:
    @pytest.fixture(scope="class")
    def guest(self):
        with boot("--balloon") as guest:
            yield guest.wait_ready()

    def test_memory_that_the_guest_frees_goes_back_by_itself(self, guest):
        held = use_and_free(guest, 200)
        assert held >= 200 * MIB
        wait_until(lambda: guest.region_resident("memory0") < held - 160 * MIB, 60,
                   lambda: f"{held} bytes became {guest.region_resident('memory0')}")
        assert device(guest, "balloon")["reported"]["returned"] >= 160 * MIB
        assert guest.qmp.command("query-balloon")["actual"] == MEMORY

    def test_memory_that_went_back_can_be_used_again(self, guest):
        assert use_and_free(guest, 200) >= 200 * MIB
        assert guest.kernel_complaints() == []
        assert guest.power_off() == 0
