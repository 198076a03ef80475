# SPDX-License-Identifier: BSD-2-Clause
"""What tests with stock guests share."""

import os
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def full_kvm():
    """Stock kernels need a KVM that executes 64-bit code: this machine's, or the emulated host's."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("there is no usable /dev/kvm: run tests/stock/run")


POOL = Path("/proc/sys/vm/nr_hugepages")
BOOT_PAGES = 260  # for the boot memory of the guests that one test has at once


def reserve_pages(count):
    wanted = int(POOL.read_text()) + count
    POOL.write_text(str(wanted))
    return int(POOL.read_text()) >= wanted


@pytest.fixture(scope="session", autouse=True)
def boot_pages(full_kvm):
    before = POOL.read_text()
    if not reserve_pages(BOOT_PAGES):
        pytest.skip(f"the host has no {BOOT_PAGES} huge pages of 2 MiB to give")
    yield
    POOL.write_text(before)


@pytest.fixture
def huge_pages():
    """Makes the pool of 2 MiB pages larger; what was added goes back afterwards."""
    before = POOL.read_text()

    def reserve(count):
        if not reserve_pages(count):
            pytest.skip(f"the host has no {count} huge pages of 2 MiB to give")

    yield reserve
    POOL.write_text(before)


@pytest.fixture
def scratch():
    """A folder on a file system that allocates, punches holes and does direct I/O: /var/tmp, on a disk."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="godwit-test-") as folder:
        yield Path(folder)
