# SPDX-License-Identifier: BSD-2-Clause
"""Nothing is lost when a save or a restore is cut, at whatever call: the process is killed, the disk fails or is full,
a write is torn, the file is cut off under a reader. Either the old snapshot is whole or the new one is; the guest goes
on, or no guest ever runs on memory that is not its own.

tests/support/cutter.c makes the cuts. A first run counts the calls, and then each of them is cut in turn; of calls that
are made very often, the first one, the last one and one in the middle.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from support.cutter import FAIL, HOLD, KILL, SHORT, TEAR, TRUNCATE, Cutter
from support.vm import GODWIT, KIB, MIB, Failure
from mini_machine import (ENDLESS, LIMIT, Original, Restored, RunDirectory, check_moment, follows, goes_on, memory_of,
                          no_partial, refused)

MEMORY = 48 * MIB
COUNTING = {"guest": "counting", "memory": f"{MEMORY // MIB}M", "cmdline": f"pages=64 steps={ENDLESS}"}
SAVES = {
    "paused": (),
    "cached": ("--cached", "--channels", "1"),
    "direct": ("--direct", "--channels", "4"),
    "live": ("--live",),
    "live-cached": ("--live", "--cached"),
    "base": ("--base", "base"),
}
RESTORES = {"eager": (), "cached": ("--cached", "--channels", "1"), "lazy": ("--lazy",)}


@pytest.fixture
def cutter(tmp_path):
    return Cutter(tmp_path)


def save_options(way, folder):
    return [folder / "base" if option == "base" else option for option in SAVES[way]]


def calls_to_cut(calls, wanted=lambda name: True):
    """("fsync", 2) and so on: all calls of a name that is rare, else the first and last one and one in the middle."""
    chosen = []
    for name in filter(wanted, dict.fromkeys(calls)):
        count = calls.count(name)
        numbers = range(1, count + 1) if count <= 5 else (1, count // 2 + 1, count)
        chosen += [(name, number) for number in numbers]
    return chosen


def identity(file):
    """What no other file has, and this one only as long as nobody writes to it."""
    status = os.stat(file)
    return status.st_ino, status.st_mtime_ns, status.st_size


def partials(folder):
    return [path for path in folder.iterdir() if ".partial-" in path.name]


def verify(folder, file):
    RunDirectory(folder).cli("snapshot", "verify", file)


def first_saves(folder, cutter, way):
    """A guest, its old snapshot, and the calls that another save makes."""
    options = save_options(way, folder)
    with Original(folder, **COUNTING, wrapper=cutter.wrapper) as vm:
        vm.wait_lines(2)
        if way == "base":
            vm.save(folder / "base")
        goes_on(vm, 1)
        vm.save(folder / "snap")
        cutter.arm()
        vm.save(folder / "snap", *options)
        calls = cutter.disarm().calls
    assert {"open", "realpath", "mkostemp", "ftruncate", "pwrite", "fsync", "rename"} <= set(calls)
    assert calls[-4:] == ["pwrite", "fsync", "rename", "fsync"]  # of the file, and of its folder
    return calls


# --- A save whose process ends ------------------------------------------------------------------------


def in_place(done, call):
    """Whether a save that was cut at this call, the last of those done, has put its file in place."""
    return "rename" in done and call[0] != "rename"


def kill_saves(folder, cutter, way, action, calls):
    """Restores the guest, cuts its next save, looks at what there is; again and again."""
    file, options = folder / "snap", save_options(way, folder)
    for call in calls:
        with Restored(folder, file, wrapper=cutter.wrapper) as vm:
            goes_on(vm, 1)
            old = identity(file)
            cutter.arm(action, call)
            result = vm.save(file, *options, check=False)
            done = cutter.disarm().calls
            if not cutter.reached:  # threads do not always share their work alike
                assert result.returncode == 0, result.stderr
                continue
            assert result.returncode == 1 and vm.wait() == -signal.SIGKILL
        verify(folder, file)
        assert (identity(file) == old) == (not in_place(done, call)), (call, done)
    with Restored(folder, file) as vm:  # with all that the killed ones have left behind
        goes_on(vm, 1)
        vm.save(file, *options)
        verify(folder, file)
        goes_on(vm, 1)


@pytest.mark.parametrize("way", ["paused", "cached", "live", "base"])
def test_save_that_is_killed_at_any_call_leaves_a_whole_file(tmp_path, cutter, way):
    calls = first_saves(tmp_path, cutter, way)
    kill_saves(tmp_path, cutter, way, KILL, calls_to_cut(calls))
    assert partials(tmp_path)
    for left in partials(tmp_path):
        # Only what was killed with everything written may be whole.
        if RunDirectory(tmp_path).cli("snapshot", "verify", left, check=False).returncode:
            line = refused(RunDirectory(tmp_path).cli("restore", left, "--name", "left", check=False))
            assert str(left) in line


@pytest.mark.parametrize("way", ["cached", "live-cached"])
def test_torn_write_leaves_the_old_file(tmp_path, cutter, way):
    calls = first_saves(tmp_path, cutter, way)
    kill_saves(tmp_path, cutter, way, TEAR, calls_to_cut(calls, lambda name: name == "pwrite"))


# --- A save whose disk fails --------------------------------------------------------------------------


@pytest.mark.parametrize("way, failure", [
    *(pytest.param(way, errno.ENOSPC, id=f"{way}-ENOSPC") for way in SAVES),
    *(pytest.param(way, errno.EIO, id=f"{way}-EIO") for way in ("cached", "live", "base"))])
def test_save_that_fails_at_any_call_leaves_the_old_file_and_the_guest(tmp_path, cutter, way, failure):
    file, options = tmp_path / "snap", save_options(way, tmp_path)
    calls = first_saves(tmp_path, cutter, way)
    told = set()
    with Restored(tmp_path, file, wrapper=cutter.wrapper) as vm:
        goes_on(vm, 1)
        # What makes room for the new file in a failed save, unlink, is not there to fail.
        for call in calls_to_cut(calls):
            old = identity(file)
            cutter.arm(FAIL, call, failure)
            result = vm.save(file, *options, check=False)
            done = cutter.disarm().calls
            where = f"{call} of {done}: {result.stderr}"
            name = call[0] if cutter.reached else None
            if result.returncode:
                line = refused(result)
                assert os.strerror(failure) in line, where
                assert str(tmp_path) in line or name in ("uffd_register", "uffd_protect"), where
                assert (identity(file) == old) == (not in_place(done, call)), where
                told.add(name)
            else:
                # Room that is asked for, and reading past the page cache, are there to be fast. Who writes to a page
                # that cannot be made writable waits until the save has ended.
                assert name in (None, "fallocate", "ftruncate", "open", "pread", "uffd_protect"), where
                verify(tmp_path, file)
            no_partial(tmp_path)
            assert vm.qmp.command("query-status")["running"], where
            goes_on(vm, 1)
        assert {"mkostemp", "pwrite", "fsync", "rename", "realpath"} <= told
        vm.save(file, *options)
        check_moment(memory_of(vm, file, tmp_path))
        goes_on(vm, 1)
    with Restored(tmp_path, file) as vm:
        goes_on(vm, 2)


@pytest.mark.parametrize("way", SAVES)
def test_short_writes_and_reads_make_no_difference(tmp_path, cutter, way):
    file, options = tmp_path / "snap", save_options(way, tmp_path)
    calls = first_saves(tmp_path, cutter, way)
    with Restored(tmp_path, file, wrapper=cutter.wrapper) as vm:
        goes_on(vm, 1)
        for call in calls_to_cut(calls, lambda name: name in ("pwrite", "pread", "io_uring")):
            cutter.arm(SHORT, call)
            vm.save(file, *options)
            cutter.disarm()
            verify(tmp_path, file)
            check_moment(memory_of(vm, file, tmp_path))


def test_main_loop_does_not_wait_for_a_disk(tmp_path, cutter):
    """A disk that hangs holds the job up, and nothing else; the job can be cancelled meanwhile."""
    calls = first_saves(tmp_path, cutter, "base")
    before = calls.index("mkostemp") + 1
    with Restored(tmp_path, tmp_path / "snap", wrapper=cutter.wrapper) as vm:
        goes_on(vm, 1)
        for call in calls_to_cut(calls[:before]):
            cutter.arm(HOLD, call)
            job = vm.save(tmp_path / "snap", *save_options("base", tmp_path), "--no-wait").stdout.strip()
            cutter.wait_reached()
            assert vm.job(job)["status"] == "running"
            if vm.qmp.command("query-status")["running"]:
                goes_on(vm, 1)
            vm.qmp.command("job-cancel", id=job)
            cutter.release()
            assert vm.wait_job(job)["error"] == "the save was cancelled", call
            no_partial(tmp_path)
            goes_on(vm, 1)
        verify(tmp_path, tmp_path / "snap")


# --- Streams ------------------------------------------------------------------------------------------


def save_stream(vm, out, *options):
    """The save command's result; the stream is in the file."""
    with open(out, "wb") as stream:
        return subprocess.run([GODWIT, "save", vm.name, f"fd:{stream.fileno()}", *options], env=vm.environment,
                              capture_output=True, text=True, pass_fds=[stream.fileno()], timeout=LIMIT, check=False)


def stream_is_whole(folder, out):
    """Whether it can be restored; it is refused by name if not."""
    result = RunDirectory(folder).cli("snapshot", "convert", out, folder / "converted", check=False)
    if result.returncode:
        assert str(out) in refused(result)
    return not result.returncode


@pytest.mark.parametrize("options", [(), ("--live",)], ids=["paused", "live"])
@pytest.mark.parametrize("action", [KILL, TEAR, FAIL, SHORT], ids=["KILL", "TEAR", "FAIL", "SHORT"])
def test_stream_that_is_cut_is_no_snapshot(tmp_path, cutter, action, options):
    first_saves(tmp_path, cutter, "paused")
    out = tmp_path / "stream"
    wanted = ("writev",) if action in (TEAR, SHORT) else ("writev", "fsync", "open", "uffd_protect")
    calls = [None]
    while calls:
        with Restored(tmp_path, tmp_path / "snap", wrapper=cutter.wrapper) as vm:
            goes_on(vm, 1)
            while calls and vm.process.poll() is None:
                call = calls.pop(0)
                cutter.arm(action, call, errno.EIO) if call else cutter.arm()
                result = save_stream(vm, out, *options)
                done = cutter.disarm().calls
                where = f"{call} of {done}: {result.stderr}"
                whole = stream_is_whole(tmp_path, out)
                if not call:
                    calls = calls_to_cut(done, lambda name: name in wanted)
                    assert whole and not result.returncode and ("writev", 1) in calls
                elif action == SHORT or not cutter.reached:
                    assert whole and not result.returncode, where
                elif action == FAIL and call[0] in ("open", "uffd_protect") and not result.returncode:
                    assert whole, where
                else:
                    assert result.returncode == 1, where
                    assert not whole or call[0] == "fsync", where
                if action in (KILL, TEAR) and call and cutter.reached:
                    assert vm.wait() == -signal.SIGKILL, where
                else:
                    goes_on(vm, 1)


# --- Disks --------------------------------------------------------------------------------------------


class SmallDisk:
    """A file system of ext4 in a file: how much it may hold, and how large the file may become, if that is less."""

    def __init__(self, folder, size, backed=None):
        self.folder, self.stored, self.mounts = folder / "disk", folder / "stored", []
        for path in (self.folder, self.stored):
            path.mkdir()
        if backed:
            self._mount(self.stored, "-t", "tmpfs", "-o", f"size={backed}", "none")
        self.image = self.stored / "image"
        with open(self.image, "wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
                        *(("-O", "^has_journal") if backed else ()), self.image], check=True)
        self._mount(self.folder, "-o", "loop", self.image)

    def _mount(self, where, *arguments):
        if subprocess.run(["mount", *map(str, arguments), where], stderr=subprocess.DEVNULL, check=False).returncode:
            self.end()
            pytest.skip("cannot mount a small file system")
        self.mounts.append(where)

    @contextlib.contextmanager
    def after_power_cut(self):
        """The file system as it would be if the power had failed now: with what has reached the disk, and no more."""
        image, folder = self.stored / "copy", self.stored / "cut"
        subprocess.run(["cp", "--sparse=always", self.image, image], check=True)
        folder.mkdir(exist_ok=True)
        self._mount(folder, "-o", "loop", image)
        yield folder
        subprocess.run(["umount", self.mounts.pop()], check=True)

    def end(self):
        while self.mounts:
            subprocess.run(["umount", self.mounts.pop()], check=True)


@pytest.fixture
def small_disk(tmp_path):
    disks = []

    def make(*arguments):
        if not shutil.which("mkfs.ext4") or os.geteuid() != 0:
            pytest.skip("needs mkfs.ext4 and root")
        disks.append(SmallDisk(tmp_path, *arguments))
        return disks[-1]

    yield make
    for disk in disks:
        disk.end()


@pytest.mark.parametrize("options", [(), ("--cached",), ("--live",), ("--live", "--cached")])
def test_full_disk_keeps_the_old_snapshot(tmp_path, small_disk, options):
    disk = small_disk(20 * MIB).folder
    with Original(tmp_path, "counting", memory="48M", cmdline=f"pages=1024 steps={ENDLESS}") as vm:
        vm.wait_lines(1)
        vm.save(disk / "snap", *options)
        old = identity(disk / "snap")
        room = os.statvfs(disk)
        (disk / "other").write_bytes(os.urandom(room.f_bavail * room.f_bsize - 2 * MIB))
        for _ in range(2):
            line = refused(vm.save(disk / "snap", *options, check=False))
            assert "No space left on device" in line and str(disk / "snap") in line
            assert identity(disk / "snap") == old
            no_partial(disk)
            verify(tmp_path, disk / "snap")
            goes_on(vm, 1)
        (disk / "other").unlink()
        vm.save(disk / "snap", *options)
        assert identity(disk / "snap") != old
        check_moment(memory_of(vm, disk / "snap", tmp_path))


@pytest.mark.parametrize("options", [(), ("--cached",), ("--live",), ("--live", "--cached")])
def test_disk_that_breaks_in_the_middle_is_told_and_the_guest_goes_on(tmp_path, small_disk, options):
    """The disk promises more than it can hold, so writes fail that the file system believed in."""
    disk = small_disk(64 * MIB, 3 * MIB).folder
    with Original(tmp_path, "counting", memory="48M", cmdline=f"pages=1024 steps={ENDLESS}") as vm:
        vm.wait_lines(1)
        line = refused(vm.save(disk / "snap", *options, check=False))
        assert "No space left on device" in line or "Input/output error" in line
        assert str(disk / "snap") in line
        assert not (disk / "snap").exists()
        no_partial(disk)
        goes_on(vm, 2)
        vm.save(tmp_path / "elsewhere", *options)
        check_moment(memory_of(vm, tmp_path / "elsewhere", tmp_path))


def id_of(folder, file):
    """The snapshot's id; it is whole."""
    verify(folder, file)
    return json.loads(RunDirectory(folder).cli("snapshot", "info", file, "--json").stdout)["id"]


@pytest.mark.parametrize("way", ["paused", "cached", "live", "live-cached"])
def test_power_cut_at_any_call_leaves_a_whole_file(tmp_path, cutter, small_disk, way):
    calls = first_saves(tmp_path, cutter, way)
    disk = small_disk(64 * MIB)
    file = disk.folder / "snap"
    with Original(tmp_path, **COUNTING, wrapper=cutter.wrapper) as vm:
        vm.wait_lines(1)
        vm.save(file, *SAVES[way])
        for call in calls_to_cut(calls, lambda name: name in ("mkostemp", "pwrite", "io_uring", "fsync", "rename")):
            old = id_of(tmp_path, file)
            cutter.arm(HOLD, call)
            job = vm.save(file, *SAVES[way], "--no-wait").stdout.strip()
            while not cutter.reached and vm.job(job)["status"] == "running":
                time.sleep(0.005)
            done = cutter.calls
            if vm.job(job)["status"] == "running":
                with disk.after_power_cut() as folder:
                    assert id_of(tmp_path, folder / "snap") == old or in_place(done, call), (call, done)
            cutter.release()
            assert "error" not in vm.wait_job(job)
            # It was said to be there, so it is.
            with disk.after_power_cut() as folder:
                assert id_of(tmp_path, folder / "snap") == id_of(tmp_path, file) != old


# --- Restores -----------------------------------------------------------------------------------------


@pytest.fixture
def snapshot(tmp_path):
    with Original(tmp_path, "counting", memory="48M", cmdline=f"pages=256 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        vm.save(tmp_path / "snap")
    return tmp_path / "snap"


def restore_calls(folder, cutter, file, way):
    cutter.arm(path=str(file))
    with Restored(folder, file, *RESTORES[way], wrapper=cutter.wrapper, log="count") as vm:
        vm.wait_resident()
        goes_on(vm, 2)
        calls = cutter.disarm().calls
    assert {"open", "pread"} <= set(calls)
    return calls


@pytest.mark.parametrize("way", RESTORES)
def test_restore_that_is_killed_at_any_call_leaves_the_file(tmp_path, cutter, snapshot, way):
    content = snapshot.read_bytes()
    for number, call in enumerate(calls_to_cut(restore_calls(tmp_path, cutter, snapshot, way))):
        cutter.arm(KILL, call, path=str(snapshot))
        with Restored(tmp_path, snapshot, *RESTORES[way], wrapper=cutter.wrapper, log=f"cut{number}") as vm:
            try:
                vm.wait_resident()
            except (Failure, OSError):
                assert vm.wait() == -signal.SIGKILL
            assert follows(vm.text())
    assert snapshot.read_bytes() == content
    with Restored(tmp_path, snapshot, *RESTORES[way]) as vm:
        goes_on(vm, 2)


def cut_restore(folder, cutter, file, way, log):
    """Restores a machine whose calls are being cut: whether it could. Its guest may have said only what is right."""
    with Restored(folder, file, *RESTORES[way], wrapper=cutter.wrapper, log=log) as vm:
        try:
            vm.wait_resident()
            goes_on(vm, 3)
            restored = True
        except (Failure, OSError):
            restored = False
            assert vm.wait() == 1, vm.stderr()
        lost = "memory that the guest needs cannot be brought, the VM ends: " in vm.stderr()
        assert follows(vm.text()), vm.text()
        if not restored:
            # An eager one is refused before the guest runs, a lazy one too unless it is a page that is missing.
            assert vm.text() == "" or (way == "lazy" and lost), vm.stderr()
            assert vm.stderr().count("\n") == 1, vm.stderr()
            assert "godwit restore: " in vm.stderr() or lost
        return restored, vm.stderr()


@pytest.mark.parametrize("way", RESTORES)
def test_guest_never_runs_on_what_could_not_be_read(tmp_path, cutter, snapshot, way):
    calls = restore_calls(tmp_path, cutter, snapshot, way)
    told = set()
    for number, call in enumerate(calls_to_cut(calls, lambda name: name != "unlink")):
        cutter.arm(FAIL, call, errno.EIO, path=str(snapshot))
        restored, message = cut_restore(tmp_path, cutter, snapshot, way, f"cut{number}")
        if not restored:
            told.add(call[0])
            assert "Input/output error" in message, (call, message)
        elif call[0] in ("pread", "uffd_copy", "uffd_register", "io_uring"):
            assert not cutter.reached or call == ("pread", 1), call  # the first look is whether it is a stream
    assert "pread" in told


@pytest.mark.parametrize("length", ["half", "end", "nothing"])
@pytest.mark.parametrize("way", RESTORES)
def test_guest_never_runs_on_a_file_that_is_cut_off_meanwhile(tmp_path, cutter, snapshot, way, length):
    calls = restore_calls(tmp_path, cutter, snapshot, way)
    size, file = snapshot.stat().st_size, tmp_path / "cut"
    outcomes = set()
    for number, call in enumerate(calls_to_cut(calls)):
        shutil.copy(snapshot, file)
        cutter.arm(TRUNCATE, call, path=str(file),
                   length={"half": size // 2 & ~4095, "end": size - 1, "nothing": 0}[length])
        outcomes.add(cut_restore(tmp_path, cutter, file, way, f"cut{number}")[0])
    assert False in outcomes


# --- How large a file becomes -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--cached",)])
def test_live_save_is_bounded_though_all_memory_changes_ten_times(tmp_path, cutter, options):
    """The file's writes wait while the guest goes over all of its memory again and again."""
    size, file = 24 * MIB, tmp_path / "snap"
    with Original(tmp_path, "dirtying", memory=f"{size // MIB}M", cmdline=f"memory={size // MIB} rounds={ENDLESS}",
                  wrapper=cutter.wrapper) as vm:
        vm.wait_lines(3)
        vm.save(tmp_path / "paused")
        cutter.arm(HOLD, ("pwrite" if options else "io_uring", 1))
        job = vm.save(file, "--live", *options, "--channels", "1", "--no-wait").stdout.strip()
        cutter.wait_reached()
        before = vm.text().count("\n")
        vm.wait_lines(before + 11)
        assert vm.job(job)["status"] == "running"
        cutter.release()
        done = vm.wait_job(job)
        assert "error" not in done
        memory = memory_of(vm, file, tmp_path)
    assert done["stored"] <= size
    # docs/snapshots.md: memory, 1 MiB for each piece, 1/8192 of it, and states.
    assert file.stat().st_size == done["file-size"] <= size + MIB + size // 8192 + 128 * KIB
    assert done["file-allocated"] <= size + size // 8192 + 256 * KIB
    assert abs(file.stat().st_size - (tmp_path / "paused").stat().st_size) < 4 * KIB
    # And it is of the one moment: pages up to one hold a round, those behind it the one before.
    rounds = [int.from_bytes(memory[address:address + 8], "little") for address in range(4 * MIB, size, 4096)]
    assert rounds == sorted(rounds, reverse=True) and rounds[0] - rounds[-1] <= 1
    assert 3 <= rounds[-1] <= before + 1
