# SPDX-License-Identifier: BSD-2-Clause
"""The guest that all subjects use, in either monitor.

Both run the same kernel, initial file system and command line with the same virtio devices: a console, a source of
randomness, an elastic device of at most 4 GiB in blocks of 2 MiB. Boot memory consists of huge pages where nothing
else is said: with small ones the guest's first touch of each page is most of the time.
"""

from bench.support.godwit import Godwit
from bench.support.qemu import Qemu
from support.stock import MOVABLE
from support.vm import GIB, MIB

KERNEL = "6.12-cloud"
CMDLINE = f"quiet panic=-1 {MOVABLE}"
LIMIT = 120
MAXIMUM = 4 * GIB  # of the elastic device
SIDES = (Godwit, Qemu)
# Of 2 MiB, for the boot memory of both machines at once and a little more.
BOOT_PAGES = 2 * 128 + 8


def start(side, context, cpus=1, memory=256 * MIB, backing="hugetlb", kind="memfd", options=(), **more):
    """@kind: the elastic memory's backing, or None for no elastic device; @options: QEMU's for that device."""
    elastic = [("mem0", MAXIMUM, kind, options)] if kind else []
    return side(kernel=context.image("kernel", KERNEL), initrd=context.image("initramfs", KERNEL), cmdline=CMDLINE,
                cpus=cpus, memory=memory, backing=backing, elastic=elastic, **more)
