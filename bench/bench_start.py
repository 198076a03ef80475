# SPDX-License-Identifier: BSD-2-Clause
"""From the start of the process to the guest's first program, and the exits on the way."""

import time

from bench.support import counters
from bench.support.guests import BOOT_PAGES, LIMIT, SIDES, start
from bench.support.qemu import SMALL_MACHINE
from bench.support.series import Pair, turns
from bench.support.table import Table


def time_start(side, context, **options):
    """Seconds from the start of the process until the guest's first program speaks."""
    begin = time.monotonic()
    with start(side, context, **options) as machine:
        machine.wait_ready(LIMIT)
        return time.monotonic() - begin


def count_start(side, context, **options):
    """Exits of one start, by kind."""
    with counters.Histogram("kvm/kvm_userspace_exit", "reason") as histogram:
        with start(side, context, **options) as machine:
            machine.wait_ready(LIMIT)
            exits = counters.kvm(machine.process.pid)
            faults = counters.process(machine.process.pid)["page faults"]
    return {"exits of the guest": exits["exits"], "… to user space": histogram.total,
            "… page faults of the guest on its memory": exits["pf_taken"], "page faults of the monitor": faults}


def measure_start(context):
    table = Table("start to user space", [
        "From the start of the process to the guest's first program. QEMU's microvm cannot have elastic memory."])
    variants = [("1 vCPU", {}, {}), ("4 vCPUs", {"cpus": 4}, {}),
                ("1 vCPU, boot memory anon", {"backing": "anon"}, {}),
                ("1 vCPU, no elastic memory, QEMU's microvm", {"kind": None}, {"machine": SMALL_MACHINE})]
    for name, options, theirs in variants:
        context.say(f"start: {name}")
        if name == variants[0][0]:
            for side in SIDES:
                time_start(side, context)  # reads the program from the disk
        pair, more = Pair(), ({}, theirs)
        for order in turns(context.rounds if name == variants[0][0] else (context.rounds + 1) // 2):
            for side in order:
                pair.sides[side].add(time_start(SIDES[side], context, **options, **more[side]))
        context.show(table.add(name, "s", pair))
    if counters.Histogram.available():
        for name, options, theirs in (variants[0], variants[3]):
            counts = [count_start(side, context, **options, **more) for side, more in zip(SIDES, ({}, theirs))]
            for what in counts[0]:
                context.show(table.add_counts(f"{name}: {what}", counts, what))
    return table


def measure(context):
    context.need_huge_pages(BOOT_PAGES)
    counters.mount()
    return [measure_start(context)]
