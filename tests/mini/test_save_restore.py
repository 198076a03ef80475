# SPDX-License-Identifier: BSD-2-Clause
"""Saving a machine and letting it go on, with mini-guests: whatever the way, the guest goes on exactly where it was,
and what cannot be saved or restored is refused with nothing changed."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support import cutter as cutters
from support.vm import BUILD, GODWIT, KIB, MIB, Failure, Machine

GUESTS = BUILD / "tests/mini"
LIMIT = 240  # an emulated processor executes a million instructions a second
HEADER = 0x1000000
BOOT = 0x2000000
STRIDE = 7919
MAGIC = 0x676e69746e756f63
GENERATION = 0xfe000


class Going:
    """A mini-guest whose serial line goes to a file: what it said, exactly, up to the moment at which it ended."""

    def start(self, folder, name):
        self.log = Path(folder) / f"{name}.log"
        self.log.unlink(missing_ok=True)  # of one before it
        return ["--serial", f"file:{self.log}"]

    def text(self):
        return self.log.read_text().replace("\r", "") if self.log.exists() else ""

    def wait_text(self, condition, limit=LIMIT):
        end = time.monotonic() + limit
        while not condition(self.text()):
            assert "FAIL" not in self.text(), self.text()[-500:]
            self.check_alive()
            if time.monotonic() > end:
                raise Failure(f"{self.name} says {self.text()[-500:]!r}")
            time.sleep(0.02)
        return self

    def wait_lines(self, count):
        return self.wait_text(lambda text: text.count("\n") >= count)

    def save(self, file, *options, check=True):
        return self.cli("save", self.name, file, *options, check=check, limit=LIMIT)

    def job(self, ident=None):
        jobs = self.qmp.command("query-jobs")
        return next(job for job in jobs if job["id"] == ident) if ident else jobs[-1]

    def wait_job(self, ident, limit=LIMIT):
        end = time.monotonic() + limit
        while self.job(ident)["status"] != "concluded":
            assert time.monotonic() < end, self.job(ident)
            time.sleep(0.02)
        return self.job(ident)

    def wait_resident(self, limit=LIMIT):
        """The report of a restore whose memory has all come."""
        end = time.monotonic() + limit
        while not (report := self.qmp.command("godwit-restore"))["resident"]:
            assert time.monotonic() < end, report
            time.sleep(0.02)
        return report

    def finish(self):
        assert self.wait(LIMIT) == 0, self.text()[-500:]
        return self


class Original(Going, Machine):
    def __init__(self, folder, guest, *arguments, memory="64M", cmdline="", reboot=False, **options):
        super().__init__("--kernel", GUESTS / f"{guest}.elf", "--cmdline", f"mini {cmdline}", "--memory", memory,
                         "--on-crash=exit", *([] if reboot else ["--no-reboot"]), *self.start(folder, "original"),
                         *arguments, serial=False, console=False, **options)


class Restored(Going, Machine):
    COMMAND = ("restore",)

    def __init__(self, folder, file, *arguments, log="restored", **options):
        super().__init__(file, *self.start(folder, log), *arguments, serial=False, console=False, **options)


class RunDirectory:
    """Enough of a machine to run commands with."""

    cli = Machine.cli

    def __init__(self, folder):
        self.directory = Path(folder)
        self.environment = dict(os.environ, GODWIT_RUN_DIR=str(folder))


ENDLESS = 10**9  # steps or rounds that no guest comes to the end of: a test does not depend on who is faster


def goes_on(vm, lines=2):
    """The guest goes on for some more lines, and all that it has said follows from what came before, line by line."""
    vm.wait_lines(vm.text().count("\n") + lines)
    assert follows(vm.text()), vm.text()[-500:]


def follows(text):
    """Whether this is a piece of what a guest says that counts without an end, perhaps from the middle of a line on."""
    lines = text.split("\n")
    if len(lines) < 3:
        return True
    word, number = lines[1].split()
    return text in "".join(f"{word} {int(number) - 1 + n}\n" for n in range(len(lines)))


def counted(steps):
    return "".join(f"step {n}\n" for n in range(1, steps + 1)) + "done\n"


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


def refused(result):
    assert result.returncode == 1, (result.returncode, result.stdout, result.stderr)
    line = result.stderr.strip()
    assert "\n" not in line
    return line


def restore_refused(vm, file, *arguments):
    """What `godwit restore` says; it must end before a guest runs."""
    log = vm.directory / "refused.log"
    result = vm.cli("restore", file, "--name", "refused", "--serial", f"file:{log}", *arguments, check=False)
    assert not log.exists() or log.read_text() == ""
    return refused(result)


def no_partial(folder):
    assert [path.name for path in Path(folder).iterdir() if ".partial-" in path.name] == []


# --- What an image holds -----------------------------------------------------------------------------


def memory_of(vm, file, folder):
    """The bytes of guest-physical memory in a snapshot of a small machine."""
    out = Path(folder) / f"{Path(file).name}.raw"
    out.unlink(missing_ok=True)
    vm.cli("snapshot", "export", file, out, "--raw", "memory0")
    return out.read_bytes()


def word(memory, address):
    return int.from_bytes(memory[address:address + 8], "little")


def check_moment(memory):
    """All pages that the guest counts in are of one moment; the step of that moment."""
    assert word(memory, HEADER) == MAGIC
    pages, step, index = word(memory, HEADER + 8), *divmod(word(memory, HEADER + 40), 1 << 32)
    for at in range(pages):
        address = BOOT + at * STRIDE % pages * 4096
        first, last = word(memory, address), word(memory, address + 4088)
        allowed = [(step, step)] if at < index else [(step - 1, step - 1)]
        if at == index:
            allowed = [(step - 1, step - 1), (step, step - 1), (step, step)]
        assert (first, last) in allowed, f"step {step}, page {at} of {index}: {first}, {last}"
    return step


# --- The guest goes on where it was -------------------------------------------------------------------

WAYS = {
    "paused-eager": ((), ()),
    "paused-lazy": ((), ("--lazy",)),
    "direct": (("--direct", "--channels", "4"), ("--direct", "--channels", "4")),
    "live-eager": (("--live",), ()),
    "live-lazy": (("--live", "--channels", "1"), ("--lazy", "--channels", "1")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backing", ["memfd", "anon", "prealloc", "file", "tmpfs", "hugetlb"])
def test_guest_goes_on_where_it_was(tmp_path, backing_of, backing, way):
    saving, restoring = WAYS[way]
    if backing == "file" and ("--live" in saving or "--lazy" in restoring):
        pytest.skip("refused by name, see below")
    file = tmp_path / "snap"
    with Original(tmp_path, "counting", memory=f"64M,{backing_of(backing)}",
                  cmdline=f"pages=256 steps={ENDLESS}") as vm:
        vm.wait_lines(3)
        vm.save(file, *saving)
        goes_on(vm)  # by itself
        assert vm.text().startswith("step 1\n")
    with Restored(tmp_path, file, *restoring) as vm:
        goes_on(vm)
        vm.wait_resident()
        goes_on(vm)
        assert int(vm.text().splitlines()[1].split()[1]) >= 4
    no_partial(tmp_path)


@pytest.mark.parametrize("way", ["paused-lazy", "live-eager"])
def test_processor_goes_on_where_it_was(tmp_path, way):
    saving, restoring = WAYS[way]
    file = tmp_path / "snap"
    with Original(tmp_path, "moving", cmdline=f"rounds={ENDLESS}") as vm:
        vm.wait_lines(3)
        vm.save(file, *saving)
        goes_on(vm, 10)
        assert vm.text().startswith("round 1\n")
    with Restored(tmp_path, file, *restoring) as vm:
        goes_on(vm, 10)
        vm.wait_resident()
        goes_on(vm, 10)


@pytest.mark.parametrize("saving", [(), ("--live",)])
@pytest.mark.parametrize("restoring", [(), ("--lazy",)])
@pytest.mark.parametrize("backing", ["memfd", "prealloc", "tmpfs", "hugetlb"])
def test_plugged_memory_goes_along(tmp_path, backing_of, backing, saving, restoring):
    file = tmp_path / "snap"
    with Original(tmp_path, "counting", "--elastic", f"id=mem0,max=64M,size=64M,{backing_of(backing)}",
                  cmdline=f"pages=64 steps={ENDLESS} elastic=2") as vm:
        vm.wait_lines(3)
        vm.save(file, *saving)
    with Restored(tmp_path, file, *restoring) as vm:
        assert vm.elastic("mem0")["size"] == 4 * MIB
        vm.wait_resident()
        goes_on(vm)


def test_paused_machine_stays_paused_and_its_copy_says_the_rest(tmp_path):
    file, steps = tmp_path / "snap", 400
    with Original(tmp_path, "counting", cmdline=f"pages=256 steps={steps}") as vm:
        vm.wait_lines(3)
        vm.cli("pause", vm.name)
        said = vm.text()
        for _ in range(2):
            vm.save(file)
            assert vm.qmp.command("query-status")["status"] == "paused"
        assert vm.text() == said
        with Restored(tmp_path, file) as copy:
            copy.finish()
            assert said + copy.text() == counted(steps)
        vm.cli("resume", vm.name)
        vm.finish()
        assert vm.text() == counted(steps)


def test_restored_paused_waits_for_resume(tmp_path):
    file = tmp_path / "snap"
    with Original(tmp_path, "counting", cmdline=f"pages=256 steps={ENDLESS}") as vm:
        vm.wait_lines(3)
        vm.save(file)
    with Restored(tmp_path, file, "--paused", "--lazy") as vm:
        assert vm.wait_resident()["total"] > 256 * 4 * KIB
        assert vm.qmp.command("query-status")["status"] == "paused"
        assert vm.text() == ""
        vm.cli("resume", vm.name)
        goes_on(vm)


def test_restored_again_and_again(tmp_path):
    file = tmp_path / "snap"
    with Original(tmp_path, "moving", cmdline=f"rounds={ENDLESS}") as vm:
        vm.wait_lines(3)
        vm.cli("pause", vm.name)
        vm.save(file)
        said = vm.text()
    for number in range(5):
        with Restored(tmp_path, file, *[("--lazy",), ()][number % 2], log=f"log{number}") as vm:
            vm.wait_lines(2)
            vm.save(file, *[("--live",), ()][number // 2 % 2])  # over the file that it came from
            vm.cli("pause", vm.name)
            vm.save(file)
            said += vm.text()
    with Restored(tmp_path, file) as vm:
        goes_on(vm)
        assert said.startswith("round 1\n") and follows(said + vm.text())


def started_anew(text):
    """A kernel that starts again counts from 1, and finds what its predecessor has left in memory."""
    return "expected 0\n" in text  # the reset may have cut a line short


def test_snapshot_is_restored_in_any_folder(tmp_path):
    """Paths that were given relative to one folder are found from another one."""
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(GUESTS / "counting.elf", here / "kernel")
    (here / "disk").write_bytes(bytes(MIB))
    with Machine("--kernel", "kernel", "--disk", "disk,id=d0", "--cmdline", f"mini pages=64 steps={ENDLESS}", "--memory",
                 "64M,backing=file:ram", "--vsock", "cid=3,path=vsock", "--serial", "file:log", "--console",
                 "file:console,id=c0", "--on-crash=exit", serial=False, console=False,
                 wrapper=("env", "-C", here)) as vm:
        end = time.monotonic() + LIMIT
        while not (here / "log").exists() or (here / "log").read_text().count("\n") < 2:
            assert time.monotonic() < end and vm.process.poll() is None, vm.stderr()
            time.sleep(0.02)
        vm.cli("save", vm.name, tmp_path / "snap")
        vm.cli("pause", vm.name)
    with Restored(tmp_path, tmp_path / "snap", wrapper=("env", "-C", "/")) as copy:
        copy.wait_lines(2)
        assert {path.name for path in here.iterdir()} >= {"kernel", "disk", "ram", "vsock", "log", "console"}
        copy.cli("reset", copy.name)  # reads the kernel again
        copy.wait_text(started_anew)
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"here", "snap", "restored.log"}


def test_reset_of_a_restored_machine_starts_the_kernel(tmp_path):
    file = tmp_path / "snap"
    with Original(tmp_path, "counting", cmdline=f"pages=64 steps={ENDLESS}", reboot=True) as vm:
        vm.wait_lines(3)
        vm.save(file)
    with Restored(tmp_path, file, "--lazy") as vm:
        vm.wait_lines(2)
        vm.cli("reset", vm.name)
        vm.wait_text(started_anew)


def test_clocks_are_reported(tmp_path):
    file = tmp_path / "snap"
    with Original(tmp_path, "counting", cmdline=f"pages=256 steps={ENDLESS}") as vm:
        assert vm.qmp.command("godwit-restore") == {"restored": False}
        vm.wait_lines(2)
        vm.save(file)
    with Restored(tmp_path, file) as vm:
        report = vm.qmp.command("godwit-restore")
        assert report["restored"] and report["resident"] and report["done"] == report["total"] >= MIB
        assert 0 < report["started-ns"] <= report["resident-ns"]
    with Restored(tmp_path, file, "--lazy", log="lazy") as vm:
        report = vm.wait_resident()
        assert report["total"] == report["done"] >= MIB
        assert 0 < report["started-ns"] < report["resident-ns"]


# --- A running guest's image is of one moment ---------------------------------------------------------


@pytest.mark.parametrize("backing", ["memfd", "anon", "tmpfs", "hugetlb"])
def test_live_image_is_of_one_moment(tmp_path, backing_of, backing):
    with Original(tmp_path, "counting", memory=f"64M,{backing_of(backing)}",
                  cmdline=f"pages=1024 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        steps = []
        for number in range(4):
            vm.save(tmp_path / f"snap{number}", "--live")
            steps.append(check_moment(memory_of(vm, tmp_path / f"snap{number}", tmp_path)))
        assert 3 <= steps[0] <= steps[1] <= steps[2] <= steps[3]
        assert vm.job()["paused-ns"] > 0


# --- While a save is under way ------------------------------------------------------------------------


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


@pytest.fixture
def counting(tmp_path):
    with Original(tmp_path, "counting", cmdline=f"pages=256 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        yield vm


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


# --- What cannot be saved or restored -----------------------------------------------------------------


@pytest.fixture
def saved(counting, tmp_path):
    """A machine, and a snapshot of it."""
    counting.save(tmp_path / "snap")
    return counting, tmp_path / "snap"


@pytest.mark.parametrize("target, message", [
    ("missing/snap", "cannot use the folder"), ("", "is not a plain file: give another name")])
def test_impossible_target_is_refused(counting, tmp_path, target, message):
    assert message in refused(counting.save(tmp_path / target, check=False))
    assert message in counting.job()["error"]
    no_partial(tmp_path)
    counting.wait_lines(counting.text().count("\n") + 1)


def test_memory_in_a_file_on_a_disk_is_not_saved_live(tmp_path):
    reason = ("memory 'memory0' is a file on a disk, whose pages the host cannot watch: back it by memfd, hugetlb, "
              "anon or a file on tmpfs")
    with Original(tmp_path, "counting", memory=f"64M,backing=file:{tmp_path}/ram",
                  cmdline=f"pages=64 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        assert refused(vm.save(tmp_path / "snap", "--live", check=False)) == f"godwit save: live: {reason}"
        vm.save(tmp_path / "snap")
        vm.kill()
        assert restore_refused(RunDirectory(tmp_path), tmp_path / "snap", "--lazy") == f"godwit restore: {reason}"


def flip(file, offset):
    with open(file, "r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("options", [(), ("--lazy",)])
def test_cut_off_file_is_refused(saved, options):
    vm, file = saved
    size = file.stat().st_size
    for length in (size - 1, size // 2, 100, 0):
        os.truncate(file, length)
        assert str(file) in restore_refused(vm, file, *options)


@pytest.mark.parametrize("options", [(), ("--lazy",)])
def test_damaged_structure_is_refused(saved, options):
    vm, file = saved
    where = file.read_bytes().index(b"godwit/config") + 40
    flip(file, where)
    assert str(file) in restore_refused(vm, file, *options)


def test_damaged_page_is_refused_before_the_guest_runs(saved):
    vm, file = saved
    content = file.read_bytes()
    where = content.index(MAGIC.to_bytes(8, "little"), 1 << 20)
    flip(file, where + 16)
    line = restore_refused(vm, file)
    assert "memory0" in line and f"{where & ~0xfff:#x}"[:4] in line, line
    assert "checksum" in line


def test_damaged_page_ends_a_lazily_restored_machine(saved, tmp_path):
    vm, file = saved
    where = file.read_bytes().index(MAGIC.to_bytes(8, "little"), 1 << 20)
    flip(file, where + 16)
    with Restored(tmp_path, file, "--lazy") as copy:
        assert copy.wait(LIMIT) == 1
        assert "memory that the guest needs cannot be brought, the VM ends: " in copy.stderr()
        assert "memory0" in copy.stderr() and "checksum" in copy.stderr()
        assert "FAIL" not in copy.text()


def test_missing_kernel_is_told_by_name(tmp_path):
    kernel = tmp_path / "kernel.elf"
    shutil.copy(GUESTS / "counting.elf", kernel)
    with Original(tmp_path, "counting", "--kernel", kernel, cmdline=f"pages=64 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        vm.save(tmp_path / "snap")
        kernel.unlink()
        line = restore_refused(vm, tmp_path / "snap")
        assert line == f"godwit restore: cannot open the kernel {kernel}: No such file or directory"
    with Restored(tmp_path, tmp_path / "snap", "--kernel", GUESTS / "counting.elf") as copy:
        copy.wait_lines(2)


def test_disk_that_is_given_anew_keeps_its_id(tmp_path):
    """The guest's state hangs on it."""
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(bytes(64 * KIB))
    with Original(tmp_path, "counting", "--disk", f"{tmp_path}/old,id=d0", cmdline=f"pages=64 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        vm.save(tmp_path / "snap")
        with Restored(tmp_path, tmp_path / "snap", "--name", "copy", "--disk", tmp_path / "new") as copy:  # the old one is locked
            goes_on(copy)
            disk, = [device for device in copy.cli("status", "copy").stdout.splitlines() if "virtio-blk" in device]
            assert disk.split()[0] == "d0" or " d0 " in disk


def test_name_in_use_is_refused(saved):
    vm, file = saved
    result = vm.cli("restore", file, "--serial", "null", check=False)
    assert f"a VM named '{vm.name}' is running" in refused(result)


@pytest.mark.parametrize("arguments, message", [
    (("--disk", "x.img"), "--disk: the snapshot has 0 of them, and this is one more"),
    (("--net", "tap:t0,id=net7"), "--net: the snapshot has none with id=net7"),
    (("--lazy", "--direct"), "--direct is for a restore that is not --lazy: leave one out"),
    (("--direct", "--cached"), "--direct and --cached exclude each other: leave one out"),
    (("--channels", "17"), "--channels: 17 is not 1 to 16"),
])
def test_impossible_options_are_refused(saved, arguments, message):
    vm, file = saved
    result = vm.cli("restore", file, *arguments, check=False)
    assert result.returncode == 2 and message in result.stderr


# --- Clones ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--lazy",)])
def test_clones_run_at_once_and_know_that_they_are_copies(saved, tmp_path, options):
    vm, file = saved
    ids = [memory_of(vm, file, tmp_path)[GENERATION:GENERATION + 16]]
    with Restored(tmp_path, file, *options, log="a") as a, Restored(tmp_path, file, *options, log="b") as b:
        for copy in (a, b):
            copy.wait_lines(2)
            copy.save(tmp_path / copy.name, "--live")
            memory = memory_of(copy, tmp_path / copy.name, tmp_path)
            check_moment(memory)
            ids.append(memory[GENERATION:GENERATION + 16])
        goes_on(a)
        goes_on(b)
    assert len(set(ids[1:])) == 2 and ids[0] not in ids[1:]
    vm.wait_lines(vm.text().count("\n") + 1)


# --- Chains ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saving", [(), ("--live",)])
@pytest.mark.parametrize("restoring", [(), ("--lazy",)])
def test_chain_of_three(tmp_path, saving, restoring):
    chain = [tmp_path / name for name in ("a", "b", "c")]
    with Original(tmp_path, "counting", cmdline=f"pages=256 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        vm.save(chain[0], *saving)
        for base, file in zip(chain, chain[1:]):
            vm.wait_lines(vm.text().count("\n") + 1)
            vm.save(file, *saving, "--base", base)
            check_moment(memory_of(vm, file, tmp_path))
        vm.cli("snapshot", "verify", chain[2])
        sizes = [json.loads(vm.cli("snapshot", "info", file, "--json").stdout) for file in chain]
        assert sizes[2]["base"]
    with Restored(tmp_path, chain[2], *restoring) as vm:
        vm.wait_resident()
        goes_on(vm)


def test_missing_or_wrong_base_is_refused_by_name(saved, tmp_path):
    vm, file = saved
    top, moved, other = tmp_path / "top", tmp_path / "moved", tmp_path / "other"
    vm.save(top, "--base", file)
    vm.save(other)
    assert "give another name" in refused(vm.save(top, "--base", top, check=False))
    assert "give another name" in refused(vm.save(file, "--base", top, check=False))
    file.rename(moved)
    assert f"{file}" in restore_refused(vm, top) and "No such file" in restore_refused(vm, top)
    line = restore_refused(vm, top, "--base", other)
    assert str(other) in line and " id" in line, line
    with Restored(tmp_path, top, "--base", moved) as copy:
        copy.wait_lines(2)
    line = refused(vm.save(tmp_path / "next", "--base", tmp_path / "nothing", check=False))
    assert line.startswith("godwit save: base: ") and str(tmp_path / "nothing") in line


def test_base_of_another_machine_is_refused(saved, tmp_path):
    vm, file = saved
    with Original(tmp_path, "counting", memory="96M", cmdline=f"pages=64 steps={ENDLESS}") as other:
        other.wait_lines(2)
        line = refused(other.save(tmp_path / "next", "--base", file, check=False))
        assert line == f"godwit save: base '{file}' has no memory 'memory0' of this size"


# --- While memory still comes -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--live",)])
def test_save_waits_for_a_lazy_restore(saved, tmp_path, options):
    vm, file = saved
    vm.cli("pause", vm.name)
    cutter = cutters.Cutter(tmp_path)
    lazily = (tmp_path, file, "--lazy", "--channels", "1", "--paused")
    cutter.arm(path=str(file))
    with Restored(*lazily, wrapper=cutter.wrapper) as copy:
        copy.wait_resident()
        reads = cutter.calls.count("pread")
    cutter.arm(cutters.HOLD, ("pread", reads - 1), path=str(file))
    with Restored(*lazily, wrapper=cutter.wrapper) as copy:
        cutter.wait_reached()
        assert not copy.qmp.command("godwit-restore")["resident"]
        job = copy.save(tmp_path / "next", "--no-wait", *options).stdout.strip()
        assert copy.job(job)["status"] == "running"
        cutter.release()
        copy.wait_resident()
        assert "error" not in copy.wait_job(job)
        # Byte for byte as it was, but for the generation id.
        before, after = memory_of(vm, file, tmp_path), memory_of(vm, tmp_path / "next", tmp_path)
        assert before[:GENERATION] == after[:GENERATION] and before[GENERATION + 16:] == after[GENERATION + 16:]
