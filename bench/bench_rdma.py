# SPDX-License-Identifier: BSD-2-Clause
"""The RDMA engine: two of them, each in a process with a processor of its own, over UDP of the loopback interface, and two in
one thread over the loop port; beside what the same machine does without RDMA."""

import subprocess

from bench.support.series import Pair, turns
from bench.support.table import Table
from support.vm import BUILD, MIB, Failure

NATIVE = True  # there is no guest

LOAD = BUILD / "tests/unit/rdma-load"
SECONDS = 0.3
UDP = "udp:127.0.4.1,127.0.4.2"
LARGE = 1 * MIB
OTHER = "without RDMA"
# What a packet has beside its payload: base header and CRC; the header of a write or read.
AROUND, ADDRESSED = 16, 16

# (name, what rdma-load is asked for, what it is compared with)
BANDWIDTHS = (
    ("1 MiB writes, MTU 4096", (UDP, "write", LARGE, 4, 4096), ("udp", 4096 + AROUND)),
    ("1 MiB writes, MTU 1024", (UDP, "write", LARGE, 4, 1024), ("udp", 1024 + AROUND)),
    ("1 MiB reads, MTU 4096", (UDP, "read", LARGE, 4, 4096), ("udp", 4096 + AROUND)),
    ("1 MiB sends, MTU 4096", (UDP, "send", LARGE, 4, 4096), ("udp", 4096 + AROUND)),
    ("64 KiB writes, MTU 4096, 16 at once", (UDP, "write", 65536, 16, 4096), ("tcp", 65536)),
    ("4 KiB writes, MTU 4096, 64 at once", (UDP, "write", 4096, 64, 4096), ("tcp", 4096)),
    ("1 MiB writes, MTU 4096, port loop", ("loop", "write", LARGE, 4, 4096), ("memcpy", LARGE)),
)
RATES = (
    ("8-byte writes", (UDP, "write", 8, 512, 1024), ("udp", 8 + AROUND + ADDRESSED)),
    ("8-byte sends", (UDP, "send", 8, 512, 1024), ("udp", 8 + AROUND)),
    ("8-byte reads", (UDP, "read", 8, 512, 1024), ("udp", 8 + AROUND + ADDRESSED)),
    ("fetch-and-adds", (UDP, "add", 8, 512, 1024), ("udp", 28 + AROUND)),
    ("8-byte writes, port loop", ("loop", "write", 8, 512, 1024), None),
)
TIMES = (
    ("8-byte write", (UDP, "write", 8, 1, 1024), ("echo", 8 + AROUND + ADDRESSED)),
    ("8-byte read", (UDP, "read", 8, 1, 1024), ("echo", 8 + AROUND + ADDRESSED)),
    ("8-byte write, both ends sleep", (UDP, "write", 8, 1, 1024, "sleep"), None),
)


def run(*words):
    """In a network of its own, where nobody has the port: the numbers that it prints."""
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", LOAD, *words]
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, timeout=60)
    if result.returncode:
        raise Failure(f"rdma-load {' '.join(map(str, words))}: status {result.returncode}")
    return [float(word) for word in result.stdout.split()]


def with_rdma(words):
    return run(*words[:5], SECONDS, *words[5:])


def without(words):
    return run("plain", *words, SECONDS)


def measure_pairs(context, title, notes, rows, values):
    """A row for each of what @values names: (what is added to the name, its unit, more is better, of which number)."""
    table = Table(title, notes, other=OTHER)
    for name, ours, theirs in rows:
        context.say(f"RDMA: {name}")
        pairs = [Pair(more=more) for _, _, more, _ in values]
        for order in turns(context.rounds):
            for side in order:
                words = (ours, theirs)[side]
                if words is None:
                    continue
                found = without(words) if side else with_rdma(words)
                for pair, (_, _, _, value) in zip(pairs, values):
                    pair.sides[side].add(value(found, words[1] if side else words[2]))
        for pair, (what, unit, _, _) in zip(pairs, values):
            context.show(table.add(name + what, unit, pair), OTHER)
    return table


def measure(context):
    return [
        measure_pairs(context, "RDMA between two engines: bandwidth", [
            "Payload. Beside it: datagrams of the size of a packet of this MTU, as many as the kernel cuts from one of 64 KiB and puts "
            "together again; one stream of TCP; copies within a thread. They have no CRC, no order and no memory of their own."],
            BANDWIDTHS, [("", "Gb/s", True, lambda found, size: found[0] * size * 8 / 1e9)]),
        measure_pairs(context, "RDMA between two engines: requests a second", [
            "512 at once, each with a completion. Beside it: datagrams of the same size, cut by the kernel."],
            RATES, [("", "", True, lambda found, _: found[0])]),
        measure_pairs(context, "RDMA between two engines: there and back", [
            "One at a time, from the request to its completion. Beside it: a datagram of the same size and its echo; who waits asks "
            "over and over."],
            TIMES, [(": median", "µs", False, lambda found, _: found[1]),
                    (": 99th percentile", "µs", False, lambda found, _: found[2])])]
