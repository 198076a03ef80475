# SPDX-License-Identifier: BSD-2-Clause
"""What the host's kernel counts for a machine: memory, threads, faults, exits of the guest, system calls.

Times shake on a busy host; counts hardly do. Exits come from KVM's own statistics in debugfs. What user space is
asked and what it asks comes from histograms that the kernel's tracing fills (tracefs); they cost time, so
nothing is timed meanwhile. Needs root, as the emulated host gives it; what is missing is left out.
"""

import contextlib
import re
import subprocess
from pathlib import Path

KIB = 1 << 10
DEBUG, TRACING = Path("/sys/kernel/debug"), Path("/sys/kernel/tracing")
CGROUPS = Path("/sys/fs/cgroup")
KVM_SET_USER_MEMORY_REGION = 0x4020ae46


def mount():
    for kind, place in (("debugfs", DEBUG), ("tracefs", TRACING)):
        if not any(place.glob("*")):
            subprocess.run(["mount", "-t", kind, kind, place], stderr=subprocess.DEVNULL)


# --- A process ------------------------------------------------------------------------------------------


def fields(path):
    """Lines of the form `Name:  NUMBER [kB]`, in bytes where they say kB."""
    found = {}
    for name, number, kilo in re.findall(r"^(\S+):\s+(\d+)( kB)?$", Path(path).read_text(), re.MULTILINE):
        found[name] = int(number) * (KIB if kilo else 1)
    return found


def process(pid):
    """Counts that only grow: context switches and page faults of all threads, those that ended included."""
    switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = fields(task / "status")
        switches += status["voluntary_ctxt_switches"] + status["nonvoluntary_ctxt_switches"]
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return {"context switches": switches, "page faults": int(words[7]) + int(words[9])}


def threads(pid):
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def memory(pid):
    """Resident bytes without huge pages of a pool, those that no other process shares, and page tables."""
    rollup, status = fields(f"/proc/{pid}/smaps_rollup"), fields(f"/proc/{pid}/status")
    return {"resident": rollup["Rss"], "private": rollup["Private_Clean"] + rollup["Private_Dirty"],
            "page tables": status["VmPTE"]}


class KernelMemory:
    """A group of processes whose memory in the kernel is counted: page tables, KVM's tables, thread stacks."""

    def __init__(self, name):
        self.path = CGROUPS / f"godwit-bench-{name}"

    @contextlib.contextmanager
    def birth(self):
        """What is started meanwhile belongs to the group from its first byte on."""
        self.path.mkdir()
        (self.path / "cgroup.procs").write_text("0")
        try:
            yield self
        finally:
            (CGROUPS / "cgroup.procs").write_text("0")

    def read(self):
        return int(re.search(r"^kernel (\d+)$", (self.path / "memory.stat").read_text(), re.MULTILINE).group(1))

    def remove(self):
        self.path.rmdir()

    @staticmethod
    def available():
        if not (CGROUPS / "cgroup.controllers").exists():
            return False
        with contextlib.suppress(OSError):
            (CGROUPS / "cgroup.subtree_control").write_text("+memory")
        return "memory" in (CGROUPS / "cgroup.subtree_control").read_text()


# --- Guest memory ---------------------------------------------------------------------------------------


class Held:
    """How many bytes the host holds for one piece of a guest's memory, asked from outside."""

    def __init__(self, pid, size, backing):
        """@size tells the piece from others. Boot memory must not be anonymous if this is."""
        self.pid, self.file = pid, None
        if backing != "anon":
            files = Path(f"/proc/{pid}/fd").iterdir()
            self.file = next(file for file in files if "memfd:" in str(file.readlink()) and file.stat().st_size == size)

    def read(self):
        if self.file:
            return self.file.stat().st_blocks * 512
        return fields(f"/proc/{self.pid}/smaps_rollup")["Anonymous"]


# --- KVM ------------------------------------------------------------------------------------------------


def kvm(pid):
    """KVM's statistics of the machine of a process: exits by kind, faults on guest memory."""
    total = {}
    for folder in (DEBUG / "kvm").glob(f"{pid}-*"):
        for name in ("exits", "io_exits", "mmio_exits", "pf_taken"):
            total[name] = total.get(name, 0) + int((folder / name).read_text())
    return total


class Histogram:
    """Counts how often an event of the kernel happened, by one of its fields, between enter and exit."""

    def __init__(self, event, key, condition=""):
        self.folder = TRACING / "events" / event
        self.trigger = f"hist:keys={key}" + (f" if {condition}" if condition else "")
        self.counts = {}

    def __enter__(self):
        (self.folder / "trigger").write_text(self.trigger)
        return self

    def __exit__(self, *_):
        text = (self.folder / "hist").read_text()
        (self.folder / "trigger").write_text("!" + self.trigger)
        self.counts = {int(key): int(count)
                       for key, count in re.findall(r"\{ \S+:\s+(\d+)[^}]*\} hitcount:\s+(\d+)", text)}

    @property
    def total(self):
        return sum(self.counts.values())

    @staticmethod
    def available():
        return (TRACING / "events/kvm/kvm_userspace_exit").exists()
