# SPDX-License-Identifier: BSD-2-Clause
"""Stock Debian guests: the images that tools/guest-image makes for them, and a machine that boots one.

A guest's command line makes elastic memory movable at once and does not zero pages when they are allocated, which would
touch every page right before it is unplugged; a test that wants Debian's defaults passes its own `memory_options`.
"""

import functools
import re
import subprocess
import time
from pathlib import Path

from support.vm import GIB, KIB, MIB, REPOSITORY, START_LIMIT, Machine

CLOUD = ["6.12-cloud", "6.1-cloud"]
GENERIC = ["6.12-generic", "6.1-generic"]
BOOT_MEMORY = "256M,backing=hugetlb"
MOVABLE = "init_on_alloc=0 memhp_default_state=online_movable"


@functools.lru_cache(maxsize=None)
def image(what, kernel, *arguments):
    """The path of an image. tests/stock/run has built them all before, since that is quicker outside."""
    return subprocess.run([REPOSITORY / "tools/guest-image", what, kernel, *arguments], check=True,
                          stdout=subprocess.PIPE, text=True).stdout.strip()


class Guest(Machine):
    """What both kinds of stock guests can do."""

    def power_off(self, limit=START_LIMIT):
        """Switches the guest off from within; the exit status of godwit."""
        self.console.send_script("poweroff -f")
        return self.wait(limit)

    def reboot(self):
        """Restarts the guest from within and waits until it is up again."""
        self.console.send_script("reboot -f")
        self.qmp.event("RESET")
        return self.wait_ready()

    def kernel_complaints(self):
        """Lines of the guest's kernel log that tell of a fault of the machine or of lost memory."""
        bad = re.compile(r"\bBUG\b.*:|Oops|WARNING:|Call Trace|general protection|Bad page|Kernel panic|soft lockup|"
                         r"Out of memory|I/O error|detected stall")
        return [line for line in self.sh("dmesg").splitlines() if bad.search(line)]

    def nodes(self):
        """MemTotal of each NUMA node of the guest, in bytes."""
        text = self.sh("cat /sys/devices/system/node/node*/meminfo | grep MemTotal")
        return {int(n): int(size) * KIB for n, size in re.findall(r"Node (\d+) MemTotal:\s+(\d+)", text)}

    def region(self, ident):
        """What `godwit memory` says of one piece of guest memory."""
        return next(r for r in self.qmp.command("godwit-memory")["regions"] if r["id"] == ident)

    def wait_reason(self, ident, reason, limit=START_LIMIT):
        """Waits until an elastic device is in a state for this reason ("busy", …)."""
        return wait_until(lambda: self.region(ident)["reason"] == reason, limit,
                          lambda: f"{ident} is not {reason}: {self.region(ident)}")


class RestoredGuest(Guest):
    """`godwit restore FILE …`: a stock guest that goes on; its shell is where it was."""

    COMMAND = ("restore",)


class StockGuest(Guest):
    """`godwit run` with a stock kernel and the test shell of tools/guest-init.

    kernel   a folder of the cache's kernels
    tools    programs of this machine that the guest's initial file system holds, beside busybox
    elf      start vmlinux (PVH) and not the bzImage
    memory   one --memory, or a list of them
    modules  of the kernel, beside those of every image
    rdma     the guest has the driver of the RDMA device and programs that use it; a generic kernel

    Boot memory is of huge pages unless a test wants another: under an emulated KVM each page that a guest touches for
    the first time costs a tenth of a millisecond, and a start takes a third of the time with huge ones.
    """

    def __init__(self, *arguments, kernel="6.12-cloud", tools=(), elf=False, cpus=1, memory=BOOT_MEMORY, cmdline="",
                 memory_options=MOVABLE, modules=(), rdma=False, **options):
        initrd = image("initramfs", kernel, *(["--with", ",".join(tools)] if tools else []),
                       *(["--modules", ",".join(modules)] if modules else []), *(["--rdma"] if rdma else []))
        memories = [memory] if isinstance(memory, str) else memory
        super().__init__("--kernel", image("vmlinux" if elf else "kernel", kernel), "--initrd", initrd,
                         "--cmdline", f"quiet panic=-1 {memory_options} {cmdline}".strip(), "--cpus", cpus,
                         *(word for text in memories for word in ("--memory", text)), *arguments, **options)


def wait_until(condition, limit, describe=lambda: "it did not become true"):
    """Asks until @condition holds; fails with what @describe says after @limit seconds, or as many as a start may take: who
    waits for the right thing need not know how slow a host can be."""
    limit = max(limit, START_LIMIT)
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"after {limit} s: {describe()}"
        time.sleep(0.1)


def near(value, expected, slack):
    return abs(value - expected) <= slack
