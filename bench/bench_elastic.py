# SPDX-License-Identifier: BSD-2-Clause
"""Plugging and unplugging 1 GiB of elastic memory, in time and in counts."""

import contextlib
import time

from bench.support import counters
from bench.support.guests import BOOT_PAGES, LIMIT, MAXIMUM, SIDES, start
from bench.support.series import Pair, turns
from bench.support.table import Table
from support.vm import GIB, MIB

STEP = GIB           # what is plugged and unplugged
TOUCHED = 64 * MIB   # of it the guest writes to, so that there is something to give back
# Each question takes a host of two emulated processors time from what it asks for, and godwit answers while it plugs, QEMU
# only afterwards: asked every 2 ms, godwit's plugging of huge pages, which are cleared meanwhile, took 2.5 s, and every
# 10 ms 1.9 s. So the questions become rarer: an answer is late by a sixteenth at most.
POLL, POLL_PART = 0.005, 1 / 16
# (name, backing, options of the start)
VARIANTS = [("memfd, 1 vCPU", "memfd", {}), ("anon, 1 vCPU", "anon", {}),
            ("hugetlb, QEMU with prealloc", "hugetlb-2M", {"options": ("prealloc=on",)}),
            ("hugetlb, QEMU without prealloc", "hugetlb-2M", {})]


def wait_for(condition):
    begin = time.monotonic()
    while not condition():
        elapsed = time.monotonic() - begin
        if elapsed > LIMIT:
            raise TimeoutError(f"not within {LIMIT} s")
        time.sleep(max(POLL, elapsed * POLL_PART))


def plug(machine):
    machine.request("mem0", STEP)
    wait_for(lambda: machine.elastic("mem0")["size"] == STEP)


def use(machine):
    """The guest writes to a part of its new memory and frees it again; and all that was plugged is in use by it."""
    machine.sh(f"mount -t tmpfs -o size=50% tmpfs /mnt 2>/dev/null || {{ mkdir -p /mnt; mount -t tmpfs tmpfs /mnt; }}; "
               f"dd if=/dev/zero of=/mnt/x bs=1M count={TOUCHED // MIB} 2>/dev/null; rm /mnt/x")


def unplug(machine, held, before):
    """Returns when the device is empty and the host has its memory back."""
    machine.request("mem0", 0)
    wait_for(lambda: machine.elastic("mem0")["size"] == 0)
    wait_for(lambda: held.read() <= before + MIB)


class Cycle:
    """One plug and one unplug of one machine."""

    def __init__(self, machine, backing):
        self.machine, self.pid = machine, machine.process.pid
        self.held = counters.Held(self.pid, MAXIMUM, backing)

    def settle(self):
        """The guest's own work on what was plugged ends: its blocks go online one after the other."""
        self.machine.sh("for i in $(seq 100); do read -r n total r </proc/meminfo; "
                        f"[ $total -gt {STEP // 1024} ] && break; sleep 0.05; done")

    def run(self, watch=lambda step: contextlib.nullcontext()):
        before = self.held.read()
        with watch("plug"):
            begin = time.monotonic()
            plug(self.machine)
            plugged = time.monotonic() - begin
        self.settle()
        use(self.machine)
        with watch("unplug"):
            begin = time.monotonic()
            unplug(self.machine, self.held, before)
            unplugged = time.monotonic() - begin
        return plugged, unplugged

    def count(self):
        """What one plug and one unplug cost in counts, {step: {what: count}}."""
        found = {}

        @contextlib.contextmanager
        def watch(step):
            before = {**counters.kvm(self.pid), **counters.process(self.pid)}
            with counters.Histogram("syscalls/sys_enter_ioctl", "cmd") as ioctls:
                yield
            after = {**counters.kvm(self.pid), **counters.process(self.pid)}
            found[step] = {"exits of the guest": after["exits"] - before["exits"],
                           "context switches": after["context switches"] - before["context switches"],
                           "page faults of the monitor": after["page faults"] - before["page faults"],
                           "KVM memory slots changed": ioctls.counts.get(counters.KVM_SET_USER_MEMORY_REGION, 0)}

        self.run(watch)
        return found


def measure_plugging(context):
    table = Table("elastic memory, 1 GiB", [
        "plug: from the request until all is plugged. unplug: until nothing is, and the host has its memory back.",
        "Huge pages: godwit takes them from the pool when they are plugged, so that a dry pool refuses the plug. "
        "QEMU does so with prealloc=on; without, a dry pool kills the guest when it touches its memory.",
        "godwit's slots change so that the guest cannot reach what is unplugged; QEMU leaves it reachable."])
    for name, kind, options in VARIANTS:
        context.say(f"plug and unplug: {name}")
        pairs = {"plug": Pair(), "unplug": Pair()}
        with contextlib.ExitStack() as stack:
            cycles = []
            for side in SIDES:
                machine = stack.enter_context(start(side, context, kind=kind, **options))
                cycles.append(Cycle(machine.wait_ready(LIMIT), kind))
                cycles[-1].run()  # the guest's first is not like the others: it builds its tables
            for order in turns(context.rounds):
                for side in order:
                    for pair, seconds in zip(pairs.values(), cycles[side].run()):
                        pair.sides[side].add(seconds)
            for step, pair in pairs.items():
                context.show(table.add(f"{step}: {name}", "ms", pair))
            if counters.Histogram.available() and name == VARIANTS[0][0]:
                found = [cycle.count() for cycle in cycles]
                rows = [(f"{step}, {name}: {what}", [side[step] for side in found], what)
                        for step in pairs for what in found[0][step]]
    if counters.Histogram.available():
        for name, counts, what in rows:
            context.show(table.add_counts(name, counts, what))
    return table


def measure(context):
    context.need_huge_pages(BOOT_PAGES + STEP // (2 * MIB))
    counters.mount()
    return [measure_plugging(context)]
