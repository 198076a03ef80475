# SPDX-License-Identifier: BSD-2-Clause
"""godwit-blk beside QEMU's storage daemon, both as vhost-user back-ends of a driver that does nothing but requests of
4 KiB; and how long a change of the guest's memory takes them."""

import os
import subprocess
import tempfile
from pathlib import Path

from bench.support import qemu
from bench.support.series import Pair, turns
from bench.support.table import Table
from support.back_ends import godwit_blk, storage_daemon
from support.vm import BUILD, MIB

NATIVE = True  # there is no guest

FOLDER = os.environ.get("GODWIT_BENCH_DIR", "/var/tmp")
LOAD = BUILD / "tests/unit/vhost-blk-load"
SECONDS = 2
SIZE = 256 * MIB  # in the page cache
DEPTHS = (1, 16)
COUNTS = (8, 30, 200, 4096, 16384, 32000)
NEWEST = qemu.UNPACKED / "qemu-storage-daemon"
# QEMU's version, how many pieces it says it takes, and the most of the counts that it takes.
THEIRS, SLOTS, THEIRS_MOST = ("10", 509, 200) if NEWEST.exists() else ("7.2", 32, 30)


def run(back_end, *arguments):
    """Starts it anew, so that both begin alike; the lines that the load prints, as numbers."""
    with back_end:
        back_end.start()
        result = subprocess.run([LOAD, back_end.socket, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                                check=True)
    return [[float(word) for word in line.split()] for line in result.stdout.splitlines()]


def measure_requests(context, sides):
    table = Table("disks of vhost-user back-ends, 4 KiB", [
        "A driver in the place of the guest, one queue, random places of a file of 256 MiB in the page cache, io_uring.",
        "The time of a request is the driver's: from when it offers it to when it takes it back. The storage daemon has a thread "
        "of its own for the disk (iothread), which looks for requests for a moment before it sleeps."],
        other="storage daemon")
    for operation in ("read", "write"):
        for depth in DEPTHS:
            name = f"{operation}, {depth} at once"
            context.say(f"back-ends: {name}")
            rate, median, high = Pair(more=True), Pair(), Pair()
            for order in turns(context.rounds):
                for side in order:
                    (requests, usual, slow), = run(sides[side], "load", operation, depth, SECONDS, SIZE)
                    rate.sides[side].add(requests)
                    median.sides[side].add(usual)
                    high.sides[side].add(slow)
            context.show(table.add(f"{name}: requests a second", "", rate), "storage daemon")
            context.show(table.add(f"{name}: median", "µs", median), "storage daemon")
            context.show(table.add(f"{name}: 99th percentile", "µs", high), "storage daemon")
    return table


def measure_memory(context, sides):
    table = Table("a change of the guest's memory", [
        f"One piece more or less, acknowledged, by how many there are. The storage daemon of QEMU {THEIRS} takes {SLOTS}."],
        other="storage daemon")
    context.say("back-ends: memory")
    pairs = {count: (Pair(), Pair()) for count in COUNTS}
    for order in turns(context.rounds):
        for side in order:
            counts = [count for count in COUNTS if not side or count <= THEIRS_MOST]
            for count, times in zip(counts, run(sides[side], "slots", *counts)):
                for pair, time in zip(pairs[count], times):
                    pair.sides[side].add(time)
    for count, both in pairs.items():
        for what, pair in zip(("added", "taken away"), both):
            if pair.sides[1].values:
                context.show(table.add(f"{what}, {count} pieces", "µs", pair), "storage daemon")
            else:
                context.show(table.add_alone(f"{what}, {count} pieces", "µs", pair.sides[0]), "storage daemon")
    return table


def measure(context):
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        disk = Path(folder) / "disk"
        with disk.open("wb") as file:
            for _ in range(SIZE // MIB):
                file.write(os.urandom(MIB))
        for name in ("ours", "theirs"):
            (Path(folder) / name).mkdir()
        sides = (godwit_blk(Path(folder) / "ours", disk),
                 storage_daemon(Path(folder) / "theirs", disk, options=",aio=io_uring", lock=False, thread=True,
                                program=str(NEWEST) if NEWEST.exists() else "qemu-storage-daemon"))
        return [measure_requests(context, sides), measure_memory(context, sides)]
