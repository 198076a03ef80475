# SPDX-License-Identifier: BSD-2-Clause
"""Elastic memory that godwit sizes itself: it follows what a stock guest uses.

Growing is quick, taking back slow by design (src/machine/auto_policy.h): thirty seconds of calm come first.
"""

import re

import pytest

from support.stock import StockGuest, wait_until
from support.vm import GIB, MIB

MINIMUM, MAXIMUM = 128 * MIB, 2 * GIB


def shrinks(data):
    return data["action"] == "shrink"


class TestRunningGuest:
    @pytest.fixture(scope="class")
    def guest(self):
        with StockGuest("--elastic", f"id=mem0,max=2G,auto={MINIMUM // MIB}M..2G", "--log", "info") as guest:
            guest.qmp
            yield guest.wait_ready()

    def test_it_starts_at_its_minimum(self, guest):
        wait_until(lambda: guest.elastic("mem0")["size"] >= MINIMUM, 60, lambda: guest.elastic("mem0"))

    def test_it_grows_before_the_guest_is_out_of_memory(self, guest):
        # Three times what the guest has at the start, 32 MiB at a time, in the pace of a program that works.
        guest.sh("mkdir -p /big && mount -t tmpfs -o size=1500M tmpfs /big; i=0; while [ $i -lt 24 ]; do "
                 "dd if=/dev/zero of=/big/$i bs=1M count=32 2>/dev/null || exit 1; i=$((i+1)); sleep 0.5; done")
        assert guest.sh("du -sm /big | cut -f1") == "768"
        assert guest.sh("grep oom_kill /proc/vmstat") == "oom_kill 0"
        assert guest.kernel_complaints() == []
        assert 768 * MIB <= guest.elastic("mem0")["size"] + 256 * MIB <= MAXIMUM + 256 * MIB
        # The first decision of all, from nothing to the minimum, is an event as well if somebody listened already.
        data = guest.qmp.event("ELASTIC_AUTO_DECISION",
                               matching=lambda data: data["action"] == "grow" and data["before"] > 0)
        assert data["after"] > data["before"] >= MINIMUM
        assert data["devices"] == [{"id": "mem0", "size": data["after"]}]

    def test_it_keeps_a_reserve_available(self, guest):
        def available():
            return int(guest.sh("grep MemAvailable /proc/meminfo").split()[1]) * 1024

        wait_until(lambda: available() >= 128 * MIB, 30, available)

    def test_it_does_not_take_back_at_once(self, guest):
        size = guest.elastic("mem0")["requested-size"]
        guest.sh("umount /big")
        assert guest.elastic("mem0")["requested-size"] >= size

    def test_an_idle_guest_gives_memory_back(self, guest):
        held, size = guest.region_resident("mem0"), guest.elastic("mem0")["size"]
        data = guest.qmp.event("ELASTIC_AUTO_DECISION", limit=120, matching=shrinks)
        assert data["reason"] == "idle" and MINIMUM <= data["after"] < data["before"]
        assert data["available"] > 256 * MIB
        wait_until(lambda: guest.elastic("mem0")["size"] < size, 60, lambda: guest.elastic("mem0"))
        # A second step follows in its time.
        second = guest.qmp.event("ELASTIC_AUTO_DECISION", limit=60, matching=shrinks)
        assert second["after"] < data["after"]
        wait_until(lambda: guest.elastic("mem0")["size"] <= data["after"], 60, lambda: guest.elastic("mem0"))
        assert guest.region_resident("mem0") <= held

    def test_memory_that_is_taken_back_is_there_again_when_it_is_needed(self, guest):
        size = guest.elastic("mem0")["size"]
        guest.qmp.events.clear()
        guest.sh("mount -t tmpfs -o size=1500M tmpfs /big; i=0; while [ $i -lt 28 ]; do "
                 "dd if=/dev/zero of=/big/$i bs=1M count=32 2>/dev/null || exit 1; i=$((i+1)); sleep 0.5; done")
        assert guest.elastic("mem0")["size"] > size
        assert guest.sh("grep oom_kill /proc/vmstat") == "oom_kill 0"

    def test_the_log_tells_each_decision(self, guest):
        lines = [line for line in guest.stderr().splitlines() if "elastic memory: " in line]
        assert any(re.search(r"grow from 128M to \w+ \(.*\): guest uses .* of .*, .* available", line) for line in lines)
        assert any(re.search(r"shrink from \w+ to \w+ \(idle\)", line) for line in lines)
        assert guest.kernel_complaints() == []
