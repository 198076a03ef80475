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


@pytest.fixture
def huge_pages():
    """Makes a pool of 2 MiB pages larger; what was added goes back afterwards."""
    path = Path("/proc/sys/vm/nr_hugepages")
    before = path.read_text()

    def reserve(count):
        wanted = int(path.read_text()) + count
        path.write_text(str(wanted))
        if int(path.read_text()) < wanted:
            pytest.skip(f"the host has no {count} huge pages of 2 MiB to give")

    yield reserve
    path.write_text(before)


@pytest.fixture
def scratch():
    """A folder on a file system that allocates, punches holes and does direct I/O: /var/tmp, on a disk."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="godwit-test-") as folder:
        yield Path(folder)
