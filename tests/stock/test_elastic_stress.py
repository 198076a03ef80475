# SPDX-License-Identifier: BSD-2-Clause
"""Many resizes at random of a guest whose programs use, and check, all the memory that comes and goes.

The sizes come from a random number generator: GODWIT_TEST_SEED repeats a run, GODWIT_TEST_RESIZES makes it longer.
"""

import os
import random
import time

from support.stock import StockGuest, wait_until
from support.vm import MIB, Failure

SEED = int(os.environ.get("GODWIT_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
RESIZES = int(os.environ.get("GODWIT_TEST_RESIZES", 100))
DEVICES = {"huge": "id=huge,max=512M,node=0,backing=hugetlb-2M", "small": "id=small,max=512M,node=1"}
MAXIMUM, BLOCK = 512 * MIB, 2 * MIB
# Programs, the kernel, its page descriptors for all elastic memory and the initial file system need 250 MiB together: boot
# memory is enough for them when there is nothing else, so that nothing may ever be killed for lack of memory.
BOOT = ["256M,backing=hugetlb,node=0", "256M,backing=hugetlb,node=1"]
WORKERS, WORKING_SET = 2, 48 * MIB
# A size that the guest cannot reach at once, since a page is busy, is given up for the next one: its driver tries again
# only after 50 s by itself.
PATIENCE = 10


def start_stress(guest):
    guest.sh(f"(stress-ng --vm {WORKERS} --vm-bytes {WORKING_SET // MIB}M --vm-keep --verify --timeout 3600 >/tmp/stress.log "
             "2>&1; echo $? >/tmp/stress.status) </dev/null >/dev/null 2>&1 &")


def end_stress(guest):
    """Interrupts stress-ng, which then checks what it has and reports; its exit status and what it said."""
    guest.sh("kill -INT $(pidof stress-ng); while [ ! -f /tmp/stress.status ]; do sleep 0.1; done")
    return int(guest.sh("cat /tmp/stress.status")), guest.sh("cat /tmp/stress.log")


def settles(guest, ident, size):
    """Whether the device gets to its size in reasonable time."""
    try:
        guest.wait_size(ident, size, PATIENCE)
        return True
    except Failure:
        return False


def test_memory_under_use_survives_many_random_resizes(huge_pages, record_property):
    dice = random.Random(SEED)
    print(f"GODWIT_TEST_SEED={SEED}")
    huge_pages(MAXIMUM // (2 * MIB))
    devices = [word for text in DEVICES.values() for word in ("--elastic", text)]
    with StockGuest(*devices, tools=("stress-ng",), cpus=2, memory=BOOT) as guest:
        guest.wait_ready()
        sizes = {ident: guest.resize(ident, 256 * MIB) for ident in DEVICES}
        guest.sh("mkdir /kept && mount -t tmpfs -o size=32M tmpfs /kept && head -c 16m /dev/urandom >/kept/x")
        kept = guest.sh("md5sum </kept/x")
        start_stress(guest)
        # The programs do work in the elastic memory.
        wait_until(lambda: guest.region_resident("small") > 16 * MIB, 60, lambda: guest.region("small"))

        reached = replaced = 0
        started = time.monotonic()
        for number in range(RESIZES):
            ident = dice.choice(list(DEVICES))
            # Whole memory blocks of the guest half of the time; the guest's kernel treats them in another way.
            unit = dice.choice((BLOCK, 128 * MIB))
            sizes[ident] = dice.randint(0, MAXIMUM // unit) * unit
            guest.qmp.command("godwit-resize", id=ident, size=sizes[ident])
            if dice.random() < 0.3:
                time.sleep(dice.random() * 0.5)
                replaced += guest.elastic(ident)["size"] != sizes[ident]
            else:
                reached += settles(guest, ident, sizes[ident])
            assert guest.elastic(ident)["size"] <= MAXIMUM, number
        seconds = time.monotonic() - started

        # Half of each, from wherever chance has left them.
        for ident in DEVICES:
            guest.qmp.command("godwit-resize", id=ident, size=MAXIMUM // 2)
        for ident in DEVICES:
            guest.wait_size(ident, MAXIMUM // 2, 180)
        status, said = end_stress(guest)
        assert status == 0 and "fail:" not in said, said
        assert guest.sh("md5sum </kept/x") == kept
        assert guest.sh("grep oom_kill /proc/vmstat") == "oom_kill 0"
        assert guest.kernel_complaints() == []

        # With nobody there to use it, all of it comes back.
        guest.sh("umount /kept")
        for ident in DEVICES:
            guest.resize(ident, 0, 180)
            assert guest.region_resident(ident) == 0
        assert guest.kernel_complaints() == []
        record_property("measured", f"{RESIZES} resizes in {seconds:.0f} s under stress-ng, seed {SEED}: {reached} reached, "
                                    f"{replaced} replaced before they were")
        # The rest were overtaken by chance; but resizes do work.
        assert reached >= RESIZES // 2
        assert guest.power_off() == 0
