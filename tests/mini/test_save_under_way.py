# SPDX-License-Identifier: BSD-2-Clause
"""While a save is under way, with mini-guests: pauses, cancels, kills and errors at each of its calls leave a whole file, old or
new, and a guest that goes on."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mini_machine import Restored, check_moment, goes_on, memory_of, no_partial, refused, restore_refused
from support.vm import GODWIT


class Injected:
    """strace at a running machine: makes one of its system calls slow, fail or its last one."""

    def __init__(self, vm, call, what):
        self.report = vm.directory / f"strace-{call}"
        names = {"rename": "rename,renameat,renameat2"}.get(call, call)
        self.process = subprocess.Popen(
            ["strace", "-q", "-f", "-p", str(vm.process.pid), "-o", self.report, "-e", f"trace={names}",
             "-e", f"inject={names}:{what}"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        threads = Path(f"/proc/{vm.process.pid}/task")
        while not all("TracerPid:\t0\n" not in (thread / "status").read_text() for thread in threads.iterdir()):
            assert self.process.poll() is None and time.monotonic() < end
            time.sleep(0.02)

    def wait_reached(self):
        end = time.monotonic() + 60
        while not self.report.exists() or "(" not in self.report.read_text():
            assert time.monotonic() < end
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # What was held goes on. Asked to end, strace would stop every thread before it lets any go on, and a processor
        # whose guest writes to protected memory cannot stop before a thread that is already stopped has served it.
        self.process.kill()
        self.process.wait()


needs_strace = pytest.mark.skipif(not shutil.which("strace") or os.geteuid() != 0, reason="needs strace and root")
HOLD = "delay_enter=60000000:when=1"


@needs_strace
def test_guest_stands_still_during_a_save_and_cannot_be_sent_on(counting, tmp_path):
    vm, file = counting, tmp_path / "snap"
    with Injected(vm, "fsync", HOLD) as held:
        job = vm.save(file, "--no-wait").stdout.strip()
        held.wait_reached()
        assert vm.qmp.command("query-status") == {"status": "paused", "running": False}
        said = vm.text()
        assert refused(vm.cli("resume", vm.name, check=False)) == (
            "godwit resume: the machine is being saved and goes on when that ends; cancel the job to go on at once")
        assert refused(vm.cli("reset", vm.name, check=False)) == (
            "godwit reset: the machine is being saved: cancel the job, or wait for it")
        assert refused(vm.save(tmp_path / "other", check=False)) == (
            "godwit save: a save is under way already: wait for it or cancel its job")
        assert vm.job(job)["status"] == "running" and not file.exists()
        assert vm.text() == said
    assert "error" not in vm.wait_job(job)
    assert vm.qmp.command("query-status")["running"]
    vm.wait_lines(vm.text().count("\n") + 2)
    no_partial(tmp_path)
    check_moment(memory_of(vm, file, tmp_path))


@needs_strace
def test_pause_during_a_save_lasts(counting, tmp_path):
    vm = counting
    vm.qmp.command("query-status")
    with Injected(vm, "fsync", HOLD) as held:
        job = vm.save(tmp_path / "snap", "--no-wait").stdout.strip()
        held.wait_reached()
        vm.cli("pause", vm.name)
        assert vm.qmp.event("STOP") == {}
    assert "error" not in vm.wait_job(job)
    assert vm.qmp.command("query-status")["status"] == "paused"
    vm.cli("resume", vm.name)
    vm.wait_lines(vm.text().count("\n") + 2)


@needs_strace
@pytest.mark.parametrize("options", [(), ("--live",)])
def test_cancelled_save_leaves_the_old_file(counting, tmp_path, options):
    vm, file = counting, tmp_path / "snap"
    vm.save(file)
    old = file.read_bytes()
    with Injected(vm, "pwrite64", HOLD) as held:
        job = vm.save(file, "--no-wait", "--cached", *options).stdout.strip()
        held.wait_reached()
        vm.cli("jobs", vm.name, "--cancel", job)
    assert vm.wait_job(job)["error"] == "the save was cancelled"
    assert file.read_bytes() == old
    no_partial(tmp_path)
    vm.wait_lines(vm.text().count("\n") + 2)


@needs_strace
def test_guest_runs_on_during_a_live_save_and_the_image_is_older(counting, tmp_path):
    vm, file = counting, tmp_path / "snap"
    with Injected(vm, "fsync", HOLD) as held:
        job = vm.save(file, "--no-wait", "--live").stdout.strip()
        held.wait_reached()
        assert vm.qmp.command("query-status")["running"]
        vm.wait_lines(vm.text().count("\n") + 5)
        reached = vm.text().count("\n")
    assert "error" not in vm.wait_job(job)
    assert check_moment(memory_of(vm, file, tmp_path)) <= reached - 4


def wait_for_thread(pid, limit=60):
    """Waits until the process's first thread itself waits for another one, no longer for events."""
    futex = "202"
    end = time.monotonic() + limit
    while Path(f"/proc/{pid}/syscall").read_text().split()[0] != futex:
        assert time.monotonic() < end
        time.sleep(0.01)


@needs_strace
def test_end_of_the_machine_ends_its_save(counting, tmp_path):
    vm, file = counting, tmp_path / "snap"
    qmp = vm.qmp
    with Injected(vm, "pwrite64", HOLD) as held:
        vm.save(file, "--no-wait", "--cached")
        held.wait_reached()
        stop = subprocess.Popen([GODWIT, "stop", vm.name, "--force"], env=vm.environment)
        qmp.event("SHUTDOWN")
        wait_for_thread(vm.process.pid)  # the save has been told to end
    assert stop.wait(60) == 0 and vm.wait() == 0
    assert not file.exists()
    no_partial(tmp_path)


# Each call that a save makes on its way, and where a process that ends there leaves the new file.
STEPS = [("pwrite64", 1, False), ("pwrite64", 2, False), ("pwrite64", 3, False), ("fsync", 1, False),
         ("rename", 1, False), ("fsync", 2, True)]


@needs_strace
@pytest.mark.parametrize("options", [(), ("--cached",), ("--live",)])
@pytest.mark.parametrize("call, number, new", STEPS)
def test_killed_save_leaves_a_whole_file(counting, tmp_path, call, number, new, options):
    vm, file = counting, tmp_path / "snap"
    vm.save(file)
    old = file.read_bytes()
    with Injected(vm, call, f"signal=SIGKILL:when={number}"):
        assert vm.save(file, *options, check=False).returncode == 1
        assert vm.wait() == -signal.SIGKILL
    assert (file.read_bytes() == old) == (not new)
    partial = [path for path in tmp_path.iterdir() if ".partial-" in path.name]
    assert len(partial) == (0 if new else 1)
    vm.cli("snapshot", "verify", file)
    if partial and (call, number) != ("fsync", 1) and (call, number) != ("rename", 1):
        assert vm.cli("snapshot", "verify", partial[0], check=False).returncode == 1
        assert str(partial[0]) in restore_refused(vm, partial[0])
    with Restored(tmp_path, file, "--lazy") as again:
        goes_on(again)


@needs_strace
@pytest.mark.parametrize("options", [(), ("--cached",), ("--live",)])
@pytest.mark.parametrize("call, number, failure, message", [
    ("pwrite64", 1, "ENOSPC", "No space left on device"),
    ("pwrite64", 3, "EIO", "Input/output error"),
    ("fsync", 1, "EIO", "Input/output error"),
    ("rename", 1, "EACCES", "Permission denied"),
])
def test_failed_save_says_why_and_the_guest_goes_on(counting, tmp_path, call, number, failure, message, options):
    vm, file = counting, tmp_path / "snap"
    vm.save(file)
    old = file.read_bytes()
    with Injected(vm, call, f"error={failure}:when={number}"):
        line = refused(vm.save(file, *options, check=False))
    assert str(file) in line and message in line
    assert file.read_bytes() == old
    no_partial(tmp_path)
    vm.wait_lines(vm.text().count("\n") + 2)
    vm.save(file, *options)
    check_moment(memory_of(vm, file, tmp_path))


@pytest.mark.parametrize("options", [(), ("--live",)])
def test_full_disk_is_told_and_the_guest_goes_on(counting, tmp_path, options):
    vm, small = counting, tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", small], stderr=subprocess.DEVNULL,
                      check=False).returncode:
        pytest.skip("cannot mount a small file system")
    try:
        line = refused(vm.save(small / "snap", *options, check=False))
        assert line.startswith("godwit save: ") and "No space left on device" in line
        assert list(small.iterdir()) == []
        vm.wait_lines(vm.text().count("\n") + 2)
        assert vm.job()["error"] in line
    finally:
        subprocess.run(["umount", small], check=True)
