# SPDX-License-Identifier: BSD-2-Clause
"""What tests with mini-guests are given: memory of each backing, a counting guest, a snapshot of it, a place
that it can move to."""

import os
import signal
from pathlib import Path

import pytest

from mini_machine import ENDLESS, Original
from mini_move import COUNTING, Destination, Source

# A shell that runs tests in the background has it ignored, and a command that finds it so leaves it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def huge_pages():
    """A pool of 2 MiB pages, given back afterwards."""
    path = "/proc/sys/vm/nr_hugepages"
    before = open(path).read()

    def reserve(count):
        open(path, "w").write(str(int(before) + count))
        if int(open(path).read()) < int(before) + count:
            pytest.skip(f"the host has no {count} huge pages to give")

    yield reserve
    open(path, "w").write(before)


@pytest.fixture
def backing_of(huge_pages, tmp_path):
    """The --memory word for a backing; files go to a place of their own for each machine."""
    shm = Path(f"/dev/shm/godwit-test-{os.getpid()}")

    def make(backing):
        if backing == "hugetlb":
            huge_pages(128)
        if backing == "tmpfs":
            return f"backing=file:{shm}"
        if backing == "prealloc":
            return "backing=memfd,prealloc=on"
        return f"backing=file:{tmp_path}/ram" if backing == "file" else f"backing={backing}"

    yield make
    shm.unlink(missing_ok=True)


@pytest.fixture
def counting(tmp_path):
    with Original(tmp_path, "counting", cmdline=f"pages=256 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        yield vm


@pytest.fixture
def saved(counting, tmp_path):
    """A machine, and a snapshot of it."""
    counting.save(tmp_path / "snap")
    return counting, tmp_path / "snap"


@pytest.fixture
def pair(tmp_path):
    """A counting guest and a place to go to."""
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            source.wait_lines(2)
            yield source, destination
