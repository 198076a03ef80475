# SPDX-License-Identifier: BSD-2-Clause
"""Guests that write faster than is sent: the status says so in words, and `--auto-converge` slows them until they move."""

import os
import statistics
import time

import pytest

from support.vm import Failure
from mini_move import Destination, Source
from mini_machine import LIMIT

# Writes 2 MiB again and again, some thousand pages a second: more than once while a round of a second sends it.
WRITING = "memory=6 rounds=1000000000 pace=400000"
SLOWLY = ("--bandwidth", "2M", "--channels", "1", "--no-wait", "--max-downtime")
DOWNTIME = 800  # less than a round takes of a guest that has all its time
NEVER = "1"


def threads(vm):
    return {open(f"/proc/{vm.process.pid}/task/{task}/comm").read().strip() for task in os.listdir(f"/proc/{vm.process.pid}/task")}


def wait_for(vm, condition):
    """The status when it is so. How fast a guest writes is the host's matter: one that hardly runs moves by itself."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            status = vm.migration()
        except (OSError, Failure):
            if vm.wait(LIMIT):
                raise
            pytest.skip("the host is so busy that the guest writes less than is sent")
        if condition(status):
            return status
        assert time.monotonic() < end, status
        time.sleep(0.05)


def rounds_of(vm):
    """How many rounds the guest has begun, and that it missed none of them."""
    lines = [line for line in vm.text().splitlines() if line.startswith("round ")]
    return [int(line.split()[1]) for line in lines]


@pytest.fixture
def writing(tmp_path):
    with Source(tmp_path, "dirtying", memory="32M", cmdline=WRITING) as source, \
            Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
        source.wait_lines(3)
        destination.wait_said("waiting for a VM")
        yield source, destination


def test_a_guest_that_writes_without_end_does_not_move_and_it_is_said_why(writing, tmp_path):
    source, destination = writing
    source.migrate(f"unix:{tmp_path}/socket", *SLOWLY, str(DOWNTIME))
    status = wait_for(source, lambda status: "why" in status)
    assert "--auto-converge" in status["why"]
    assert "guest-speed-percent" not in status
    assert status["write-rate"] > 0
    assert status["expected-downtime-ns"] > status["max-downtime-ns"]
    assert status["state"] == "COPYING"


def test_it_moves_when_it_is_slowed(writing, tmp_path):
    source, destination = writing
    source.migrate(f"unix:{tmp_path}/socket", *SLOWLY, NEVER, "--auto-converge")
    wait_for(source, lambda status: status.get("guest-speed-percent", 100) < 40)
    source.qmp.command("godwit-migrate-limit", max_downtime=DOWNTIME)
    assert source.wait(LIMIT) == 0
    seen = len(rounds_of(source))
    destination.wait_lines(20)  # it has all its time there, and lost nothing
    rounds = rounds_of(source) + rounds_of(destination)
    assert rounds == list(range(1, len(rounds) + 1))
    assert seen >= 3
    assert "slow" not in threads(destination)


def test_one_that_is_slowed_may_end_by_postcopy(writing, tmp_path):
    source, destination = writing
    source.migrate(f"unix:{tmp_path}/socket", *SLOWLY, NEVER, "--auto-converge", "--hybrid")
    assert source.wait(LIMIT) == 0
    seen = len(rounds_of(source))
    destination.wait_lines(seen + 20)
    rounds = rounds_of(source) + rounds_of(destination)
    assert rounds == list(range(1, len(rounds) + 1))
    assert "slow" not in threads(destination)


def test_it_has_its_time_again_when_the_migration_is_cancelled(writing, tmp_path):
    source, destination = writing
    source.migrate(f"unix:{tmp_path}/socket", *SLOWLY, NEVER, "--auto-converge")
    wait_for(source, lambda status: status.get("guest-speed-percent", 100) < 60)
    assert "slow" in threads(source)
    source.qmp.command("job-cancel", id=source.job()["id"])
    source.wait_job(source.job()["id"])
    assert "slow" not in threads(source)
    source.wait_lines(source.text().count("\n") + 20)


def test_a_guest_that_is_paused_while_it_is_slowed_goes_on(writing, tmp_path):
    source, destination = writing
    source.migrate(f"unix:{tmp_path}/socket", *SLOWLY, NEVER, "--auto-converge")
    wait_for(source, lambda status: status.get("guest-speed-percent", 100) < 60)
    source.qmp.command("stop")
    source.qmp.command("cont")
    source.qmp.command("job-cancel", id=source.job()["id"])
    source.wait_job(source.job()["id"])
    source.wait_lines(source.text().count("\n") + 5)


def paces(vm, count):
    """How far the processor that counts comes while the one that writes does the next few pages, so many times."""
    seen = vm.text().count("\n")
    vm.wait_lines(seen + count + 2)
    lines = [int(line.split()[1]) for line in vm.text().splitlines()[seen + 1:seen + count + 2] if line.startswith("counted ")]
    return [after - before for before, after in zip(lines, lines[1:])]


def check_uneven(tmp_path):
    """Slows a guest of which one processor writes and another counts: the status's word for whom, and what each did before and then."""
    with Source(tmp_path, "uneven", "--cpus", "2", memory="32M", cmdline="memory=6 pace=400000") as source, \
            Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
        source.wait_lines(3)
        destination.wait_said("waiting for a VM")
        before = statistics.median(paces(source, 15))
        source.migrate(f"unix:{tmp_path}/socket", *SLOWLY, NEVER, "--auto-converge")
        status = wait_for(source, lambda status: status.get("guest-speed-percent", 100) < 20)
        source.qmp.command("godwit-migrate-limit", bandwidth=50000)  # or it would move soon
        slowed = statistics.median(paces(source, 15))
        source.qmp.command("job-cancel", id=source.job()["id"])
        source.wait_job(source.job()["id"])
    return status["guest-slowed"], before, slowed


def test_the_status_says_which_processors_are_slowed(tmp_path):
    """A KVM that emulates what a guest writes does not tell who does; for one that does see tests/stock/test_slow_writers.py."""
    word, before, slowed = check_uneven(tmp_path)
    if word != "all processors alike, for KVM does not tell which of them write":
        assert word == "those processors most that write most"
        assert slowed > 1.5 * before  # the one that writes has a fifth of its time, the other one all
