# SPDX-License-Identifier: BSD-2-Clause
"""What a monitor needs for itself: memory beyond the guest's pages, threads."""

import contextlib

from bench.support import counters
from bench.support.guests import BOOT_PAGES, LIMIT, SIDES, start
from bench.support.table import Table
from support.vm import MIB


def measure(context):
    """The guest's pages are huge pages of a pool, which the host counts elsewhere."""
    context.need_huge_pages(BOOT_PAGES)
    table = Table("the monitor itself, 128 MiB guest, 4 GiB elastic", [
        "Beyond the guest's pages, after its start. The kernel's memory: page tables, KVM's tables, thread stacks."])
    for name, cpus in (("1 vCPU", 1), ("4 vCPUs", 4)):
        context.say(f"own memory: {name}")
        counts = []
        for number, side in enumerate(SIDES):
            group = counters.KernelMemory(f"{number}") if counters.KernelMemory.available() else None
            with group.birth() if group else contextlib.nullcontext():
                machine = start(side, context, cpus=cpus, memory=128 * MIB)
            with machine:
                machine.wait_ready(LIMIT)
                pid = machine.process.pid
                found = counters.memory(pid)
                counts.append({"resident and page tables": (found["resident"] + found["page tables"], "MiB"),
                               "of it not shared with other programs": (found["private"], "MiB"),
                               "threads": (counters.threads(pid), "")})
                if group:
                    counts[-1]["memory of the kernel for it"] = (group.read(), "MiB")
            if group:
                group.remove()
        for what, (_, unit) in counts[0].items():
            values = [{what: side[what][0]} for side in counts]
            context.show(table.add_counts(f"{name}: {what}", values, what, unit))
    return [table]
