# SPDX-License-Identifier: BSD-2-Clause
"""Moving a machine to another process over loopback TCP: paused ones by how much of their memory is zeros, and ones whose
guest writes by how fast it does. What the loopback itself can do is measured in the same turns."""

import os
import re
import tempfile
import time
from pathlib import Path

from bench.support.migrations import Godwit, Qemu, Reserve, fill, stream, stream_of_memory, wait_writing
from bench.support.series import Pair, Series, turns
from bench.support.snapshots import PAGE
from bench.support.table import Table
from support.vm import GIB, MIB

NATIVE = True  # no guest runs, or one so small that this machine's own KVM runs it

SIDES = (Godwit, Qemu)
SIZE = int(float(os.environ.get("GODWIT_BENCH_GIB", "1").split()[0]) * GIB)
CHANNELS = [int(count) for count in os.environ.get("GODWIT_BENCH_CHANNELS", "1 2 4").split()]
# How much is zeros; whether somebody has written those, so that the host has pages for them.
CONTENTS = (("0 % zeros", 100, False), ("50 % zeros", 50, False), ("100 % zeros", 0, False), ("100 % zeros, written", 0, True))
# The guest that writes: MiB a second, to pages one after another of a part of its memory, round and round.
RATES = [int(rate) for rate in os.environ.get("GODWIT_BENCH_RATES", "25 50 100 200 0").split()]
WRITTEN, RUNNING_CHANNELS = 256, 2


class Paused:
    """One content over one number of connections."""

    def __init__(self, content, channels):
        (self.content, self.percent, self.zeros), self.channels = content, channels
        self.speed, self.processor = Pair(more=True), Pair()
        # The loopback's: from and into small buffers, and as much memory.
        self.limits = [(stream, Series(), Series()), (stream_of_memory, Series(), Series())]

    def __str__(self):
        return f"{self.content}, {self.channels} channel{'s' if self.channels > 1 else ''}"

    def measure(self, side, reserve):
        with SIDES[side](SIZE, "memfd", "", tempfile.gettempdir()) as machine:
            fill(machine, SIZE, self.percent, self.zeros)
            move = machine.move(self.channels, reserve.give)
        reserve.take()
        self.speed.sides[side].add(SIZE / MIB / move.seconds)
        self.processor.sides[side].add(move.processor / (SIZE / GIB))

    def measure_streams(self, reserve):
        """The loopback's turn."""
        for transfer, speed, used in self.limits:
            reserve.give()
            seconds, processor = transfer(SIZE, self.channels)
            reserve.take()
            speed.add(SIZE / MIB / seconds)
            used.add(processor / (SIZE / GIB))

    def beside_streams(self):
        """Rows of what godwit and the loopback did."""
        for what, (_, speed, used) in zip(("buffers", "memory"), self.limits):
            yield f"{self}, {what}", "MiB/s", Pair(self.speed.sides[0], speed, more=True)
            yield f"{self}, {what}: processor seconds for a GiB", "cpu", Pair(self.processor.sides[0], used)


class Running:
    """A guest that writes so many MiB a second, or, 0, as fast as it can."""

    def __init__(self, rate):
        self.rate, self.seconds, self.downtime = rate, Pair(), Pair()

    def __str__(self):
        return f"{self.rate} MiB/s" if self.rate else "as fast as it can"

    def measure(self, side, reserve):
        pace = int(cycles_a_second() / (self.rate * MIB / PAGE)) if self.rate else 0
        with tempfile.TemporaryDirectory() as folder, \
                SIDES[side](SIZE, "memfd", f"memory={WRITTEN} rounds=1000000000 pace={pace}", folder) as machine:
            fill(machine, SIZE, 100, False)
            machine.qmp.command("cont")
            wait_writing(machine, SIZE)
            time.sleep(1)
            move = machine.move(RUNNING_CHANNELS, reserve.give)
        reserve.take()
        self.seconds.sides[side].add(move.seconds)
        self.downtime.sides[side].add(move.downtime)


def cycles_a_second():
    """Of the TSC, by which the guest keeps its pace."""
    return float(re.search(r"cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text()).group(1)) * 1e6


def best(cases, side):
    """The fastest over any number of channels."""
    return max((case.speed.sides[side] for case in cases), key=lambda series: series.median)


def measure_paused(context, reserve):
    tables = [Table("moving a paused machine: speed", [
        f"Memory of the guest, {SIZE / GIB:g} GiB (memfd), by the time until both ends have all. Zeros that nobody has written "
        "have no page; those that were written have, and are looked for."]),
        Table("moving a paused machine: processor seconds for a GiB", ["Of both ends together."]),
        Table("speed beside the loopback's", [
            "The loopback: plain TCP connections from process to process, as many at once, which look at nothing and make no "
            "pages. Buffers: from and into small ones, which stay in the caches of the processors. Memory: from and into as much "
            "as the guest has, all of it there and mapped on both sides."], other="the loopback")]
    for content in CONTENTS if CHANNELS else ():
        cases = [Paused(content, channels) for channels in CHANNELS]
        for case in cases:
            context.say(f"migration: {case}")
            for order in turns(context.rounds if content is CONTENTS[0] else (context.rounds + 1) // 2):
                for side in order:
                    case.measure(side, reserve)
                if content is CONTENTS[0]:
                    case.measure_streams(reserve)
            context.show(tables[0].add(str(case), "MiB/s", case.speed))
            context.show(tables[1].add(str(case), "cpu", case.processor))
            if content is CONTENTS[0]:
                for row in case.beside_streams():
                    context.show(tables[2].add(*row), "loopback")
        context.show(tables[0].add(f"{content[0]}, the best of all", "MiB/s", Pair(best(cases, 0), best(cases, 1), more=True)))
    return tables


def measure_running(context, reserve):
    tables = [Table(f"moving a guest that writes: {what}", notes) for what, notes in (
        ("in all", [f"{SIZE / GIB:g} GiB, of which the guest writes to the pages of {WRITTEN} MiB, one after another; "
                    f"{RUNNING_CHANNELS} channels, KVM. Both may stand still for 300 ms, their default."]),
        ("how long it stands still", ["As both say themselves; QEMU in whole milliseconds."]))]
    for rate in RATES:
        case = Running(rate)
        context.say(f"migration: writing {case}")
        for order in turns((context.rounds + 1) // 2):
            for side in order:
                case.measure(side, reserve)
        context.show(tables[0].add(str(case), "ms", case.seconds))
        context.show(tables[1].add(str(case), "ms", case.downtime))
    return tables


def measure(context):
    reserve = Reserve(2 * SIZE)
    try:
        return [*measure_paused(context, reserve), *measure_running(context, reserve)]
    finally:
        reserve.give()
