# SPDX-License-Identifier: BSD-2-Clause
"""Features that are used together: every pair of docs/composition.md in at least one machine."""

import subprocess

import pytest

from support import second_kernel
from support.composition import CASES, REFUSED, case_id
from support.stock import MOVABLE, StockGuest, wait_until
from support.vm import GODWIT, KIB, MIB

BLOCKS = {"4K": 4 * KIB, "2M": 2 * MIB, "128M": 128 * MIB}
MAXIMUM = 512 * MIB
AUTO_MINIMUM, AUTO_MAXIMUM = 128 * MIB, 384 * MIB
WORK = 64 * MIB
# What boot memory and the least of automatic devices leave, less the reserve that they keep for the guest: more than that makes
# them grow.
AUTO_WORK = {1: 224 * MIB, 2: 352 * MIB}


def elastic_argument(case, node, folder):
    backing = f"file:{folder}/elastic{node}" if case["backing"] == "file" else case["backing"]
    text = f"id=mem{node},max={MAXIMUM // MIB}M,node={node},backing={backing},block={case['block']}"
    return text + (f",auto={AUTO_MINIMUM // MIB}M..{AUTO_MAXIMUM // MIB}M" if case["auto"] == "on" else "")


def check_work(guest, size):
    """A program puts data into memory, at a pace that an automatic device can follow, and finds all of it again."""
    pieces = size // (8 * MIB)
    pause = "sleep 0.1; " if size > WORK else ""
    guest.sh(f"mkdir -p /pieces && mount -t tmpfs -o size={8 * pieces + 8}M tmpfs /pieces && "
             "head -c 8m /dev/urandom >/tmp/piece && "
             f"i=0; while [ $i -lt {pieces} ]; do cp /tmp/piece /pieces/$i || exit 1; i=$((i+1)); {pause}done; "
             "for f in /pieces/*; do cmp $f /tmp/piece || exit 1; done; rm /tmp/piece")


def end_work(guest):
    guest.sh("umount /pieces")


def check_sizes(guest, case, idents, least):
    """What was asked for is there, and the guest has it: @least in each device, or more where they are automatic."""
    for ident in idents:
        if case["auto"] == "off":
            guest.wait_size(ident, least)
        else:
            wait_until(lambda i=ident: guest.elastic(i)["size"] >= least, 60, lambda i=ident: guest.elastic(i))

    def agrees():
        plugged = sum(guest.elastic(ident)["size"] for ident in idents)
        seen = guest.mem_total() - guest.boot_total
        return abs(seen - plugged) < 4 * MIB, f"{plugged} plugged, {seen} seen"

    wait_until(lambda: agrees()[0], 60, lambda: agrees()[1])
    assert all(guest.elastic(ident)["size"] <= MAXIMUM for ident in idents)


def boot_total_of(guest, case):
    """MemTotal without elastic memory. What an automatic device has plugged by now is taken off, while nothing moves."""
    idents = [f"mem{node}" for node in range(case["nodes"])]

    def steady():
        before = [guest.elastic(ident)["size"] for ident in idents]
        total = guest.mem_total()
        still = before == [guest.elastic(ident)["requested-size"] for ident in idents]
        return total - sum(before) if still and all(before) == (case["auto"] == "on") else None

    return wait_until(steady, 60)


def go_through(guest, case):
    if case["event"] == "reboot":
        guest.reboot()
    else:
        second_kernel.load(guest, f"{case['kernel']}-cloud", MOVABLE)
        second_kernel.start(guest)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_features_work_together(case, huge_pages, scratch):
    idents = [f"mem{node}" for node in range(case["nodes"])]
    if case["backing"] == "hugetlb-2M":
        huge_pages(case["nodes"] * AUTO_MAXIMUM // (2 * MIB))
    memory = ["256M,backing=hugetlb"] if case["nodes"] == 1 else [f"128M,backing=hugetlb,node={node}" for node in (0, 1)]
    devices = [word for node in range(case["nodes"])
               for word in ("--elastic", elastic_argument(case, node, scratch))]
    kernel = f"{case['kernel']}-cloud"
    with StockGuest(*second_kernel.disks(kernel), *devices, kernel=kernel, cpus=case["vcpus"], memory=memory,
                    tools=("kexec",)) as guest:
        guest.qmp
        guest.wait_ready()
        guest.boot_total = boot_total_of(guest, case)
        assert int(guest.sh("nproc")) == case["vcpus"]
        assert guest.elastic("mem0")["block-size"] == BLOCKS[case["block"]]

        # It grows, and holds what programs put there.
        if case["auto"] == "off":
            for ident in idents:
                guest.qmp.command("godwit-resize", id=ident, size=256 * MIB)
        least = 256 * MIB if case["auto"] == "off" else AUTO_MINIMUM
        check_sizes(guest, case, idents, least)
        if case["nodes"] == 2:
            assert guest.nodes()[1] > least
        check_work(guest, WORK if case["auto"] == "off" else AUTO_WORK[case["nodes"]])
        assert sum(guest.region_resident(ident) for ident in idents) > WORK // 2
        if case["auto"] == "on":
            assert sum(guest.elastic(ident)["requested-size"] for ident in idents) > len(idents) * AUTO_MINIMUM
        end_work(guest)

        # It goes on after another kernel has taken over.
        go_through(guest, case)
        check_sizes(guest, case, idents, least)
        check_work(guest, WORK)
        if case["auto"] == "off":
            # What is in use moves to boot memory.
            guest.sh("rm -f /pieces/?")
            for ident in idents:
                guest.qmp.command("godwit-resize", id=ident, size=0)
            check_sizes(guest, case, idents, 0)
            assert [guest.region_resident(ident) for ident in idents] == [0] * len(idents)
        end_work(guest)
        assert guest.sh("grep oom_kill /proc/vmstat") == "oom_kill 0"
        assert guest.kernel_complaints() == []
        assert guest.power_off() == 0


def test_an_automatic_device_works_beside_one_that_an_operator_resizes():
    with StockGuest("--elastic", "id=own,max=512M,auto=128M..384M", "--elastic", "id=ours,max=1G") as guest:
        guest.wait_ready()
        wait_until(lambda: guest.elastic("own")["size"] >= 128 * MIB, 60, lambda: guest.elastic("own"))
        guest.resize("ours", 256 * MIB)
        guest.resize("ours", 0)
        refused = guest.cli("resize", guest.name, "own", "256M", check=False)
        assert refused.returncode == 1
        assert refused.stderr == ("godwit resize: 'own' follows the guest's need by itself (auto=): start the machine without "
                                  "auto= to resize it by hand\n")
        assert 128 * MIB <= guest.elastic("own")["requested-size"] <= 384 * MIB
        assert guest.elastic("ours")["size"] == 0
        assert guest.kernel_complaints() == []


def test_a_block_smaller_than_a_huge_page_is_refused():
    _, words = REFUSED[("backing", "hugetlb-2M"), ("block", "4K")]
    result = subprocess.run([GODWIT, "run", "--kernel", "/dev/null", "--memory", "128M", "--elastic",
                             "id=mem0,max=1G,block=4K,backing=hugetlb-2M"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr == f"godwit run: --elastic 'mem0': {words}\n"
