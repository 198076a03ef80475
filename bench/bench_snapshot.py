# SPDX-License-Identifier: BSD-2-Clause
"""Saving a machine into a file and getting it back, by the size of its memory and how much of it is not zero.

Both files are durable when the clock stops. The disk's own speed is measured in the same turns.
"""

import os
import shutil
import tempfile
from pathlib import Path

from bench.support.series import Pair, Series, turns
from bench.support.snapshots import PAGE, Godwit, Qemu, disk_speed, fill, forget
from bench.support.table import Table
from support.vm import GIB, MIB

NATIVE = True  # no guest runs, so this machine's own KVM will do

SIDES = (Godwit, Qemu)
FOLDER = os.environ.get("GODWIT_BENCH_DIR", "/var/tmp")
SIZES = [int(size) * GIB for size in os.environ.get("GODWIT_BENCH_GIB", "1 2 4 8").split()]
# How much is not zero, and in what pieces.
CONTENTS = (("0 %", 0, MIB), ("50 %", 50, MIB), ("100 %", 100, MIB))
SINGLE_PAGES = ("50 %, every other page", 50, PAGE)
SINGLE_PAGES_SIZE = 2 * GIB


class Case:
    """One size and content: all that is measured of it."""

    def __init__(self, size, content):
        self.size, (self.content, self.percent, self.run) = size, content
        self.stored = 0  # bytes that are not zero
        self.save, self.restore, self.first = Pair(), Pair(), Pair()
        self.save_cpu, self.restore_cpu = Pair(), Pair()
        self.disk_write, self.disk_read = Series(), Series()
        self.started, self.starting = Series(), Series()

    def __str__(self):
        return f"{self.size // GIB} GiB, {self.content}"

    def measure(self, side, path):
        with SIDES[side](self.size) as machine:
            self.stored = fill(machine, self.size, self.percent, self.run)
            seconds, processor = machine.save(path)
        self.save.sides[side].add(seconds)
        self.save_cpu.sides[side].add(processor)
        forget(path)
        seconds, processor, starting = SIDES[side].restore(path, self.size)
        self.restore.sides[side].add(seconds)
        self.restore_cpu.sides[side].add(processor)
        if SIDES[side] is Qemu:
            self.starting.add(starting)
        if SIDES[side] is Godwit:
            forget(path)
            seconds, started = Godwit.restore_lazily(path)
            self.started.add(started)
        self.first.sides[side].add(seconds)  # QEMU's guest waits for everything
        path.unlink()

    def measure_disk(self, path):
        write, read = disk_speed(path, self.stored)
        self.disk_write.add(write)
        self.disk_read.add(read)

    def speeds(self, seconds):
        """MiB/s of what is not zero."""
        return Series(*(self.stored / MIB / value for value in seconds.values))

    def per_gib(self, pair):
        return Pair(*(Series(*(value / (self.size / GIB) for value in side.values)) for side in pair.sides))


def fits(context, size, folder):
    available = next(int(line.split()[1]) << 10 for line in open("/proc/meminfo") if line.startswith("MemAvailable"))
    if available > size + size // 8 + GIB and shutil.disk_usage(folder).free > size + 2 * GIB:
        return True
    context.say(f"snapshot: {size // GIB} GiB left out, there is not enough memory or room in {FOLDER}")
    return False


def measure_case(context, size, content, folder):
    case = Case(size, content)
    context.say(f"snapshot: {case}")
    for number, order in enumerate(turns(context.rounds)):
        for side in order:
            case.measure(side, folder / "snapshot")
            if side == 0 and case.percent == 100:
                case.measure_disk(folder / "disk")
        if size >= 8 * GIB and number + 1 >= (context.rounds + 1) // 2:
            break
    return case


def make_tables(context, cases):
    tables = []

    def table(title, *notes, **options):
        tables.append(Table(title, notes, **options))
        return tables[-1]

    one = table("save, until it is durable", "QEMU: with the time of an fsync of its file, which it leaves out itself.")
    for case in cases:
        context.show(one.add(str(case), "ms", case.save))
    starting = [case.starting.median * 1000 for case in cases]
    one = table("restore, until everything is there",
                "Both from the start of the process. QEMU could be told to restore after "
                f"{min(starting):.0f} to {max(starting):.0f} ms of that.")
    for case in cases:
        context.show(one.add(str(case), "ms", case.restore))
    starts = [case.started.median * 1000 for case in cases]
    one = table("lazy restore, until the first instruction",
                "From the start of the process until the guest runs and the monitor answers. From within, when the "
                f"file is open and the machine is made, it is {min(starts):.1f} to {max(starts):.1f} ms. QEMU has no lazy "
                "restore from a file: all of it comes first.")
    for case in cases:
        context.show(one.add(str(case), "ms", case.first))
    one = table("processor seconds for a GiB of memory")
    for case in cases:
        if case.size == max(case.size for case in cases):
            context.show(one.add(f"{case}: save", "cpu", case.per_gib(case.save_cpu)))
            context.show(one.add(f"{case}: restore", "cpu", case.per_gib(case.restore_cpu)))
    one = table("speed beside the disk's", "The disk: fio, O_DIRECT, io_uring, requests of 1 MiB, 16 at once; a new file "
                "each time, synced.", other="the disk")
    for case in cases:
        if case.percent == 100:
            for what, pair, disk in (("save", case.save, case.disk_write), ("restore", case.restore, case.disk_read)):
                context.show(one.add(f"{case}: {what}", "MiB/s", Pair(case.speeds(pair.sides[0]), case.speeds(disk),
                                                                       more=True)), other="disk")
    return tables


def measure(context):
    folder = Path(tempfile.mkdtemp(prefix="godwit-bench-", dir=FOLDER))
    try:
        wanted = [(size, content) for size in SIZES for content in CONTENTS]
        if SINGLE_PAGES_SIZE in SIZES:
            wanted.append((SINGLE_PAGES_SIZE, SINGLE_PAGES))
        return make_tables(context, [measure_case(context, size, content, folder) for size, content in wanted
                                     if fits(context, size, folder)])
    finally:
        shutil.rmtree(folder)
