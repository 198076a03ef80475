# SPDX-License-Identifier: BSD-2-Clause
"""vhost-user back-ends that tools/setup unpacks: of QEMU 10, of DPDK, and of the Debian after this one."""

import os
from pathlib import Path

import pytest

from .back_ends import BackEnd
from .vm import REPOSITORY

CACHE = Path(os.environ.get("GODWIT_CACHE") or REPOSITORY / ".cache")
QEMU_10_STORAGE_DAEMON = str(CACHE / "qemu-10/qemu-storage-daemon")
TESTPMD = CACHE / "dpdk/testpmd"


def rust_shared_folder(folder, shared):
    """The folder `shared` of the virtiofsd in Rust."""
    path = Path(folder) / "rust-fs.socket"
    return BackEnd(path, [CACHE / "back-ends/virtiofsd", f"--socket-path={path}", f"--shared-dir={shared}", "--sandbox=none",
                          "--log-level=error"])


def passt(folder, *arguments):
    """A network by passt: what the guest sends goes through sockets of this host."""
    path = Path(folder) / "passt.socket"
    return BackEnd(path, [CACHE / "back-ends/passt", "--vhost-user", "-s", path, "-f", "-q", *arguments])


def dpdk(folder, *devices, postcopy=False):
    """A network by DPDK's testpmd, which gives what comes from one of its devices to the next, or back where it came from
    when there is no other. It looks for work all the time, after everybody else."""
    path = Path(folder) / "testpmd.socket"
    processors = ",".join(map(str, os.sched_getaffinity(0)))
    if not TESTPMD.exists():
        pytest.skip(f"there is no {TESTPMD} (tools/setup gets it)")
    return BackEnd(path, ["nice", "-n", "19", TESTPMD, "--no-huge", "-m", "128", "--no-pci", "--no-telemetry",
                          "--lcores", f"(0-1)@({processors})", "--file-prefix", f"godwit{os.getpid()}-{path.parent.name}",
                          "--log-level", "3", "--vdev", f"net_vhost0,iface={path}" + (",postcopy-support=1" if postcopy else ""),
                          *(word for device in devices for word in ("--vdev", device)),
                          "--", "--stats-period", "3600", "--total-num-mbufs=2048", "--no-mlockall"])
