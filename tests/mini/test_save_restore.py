# SPDX-License-Identifier: BSD-2-Clause
"""Saving a machine and letting it go on, with mini-guests: whatever the way, the guest goes on exactly where it was."""

import json
import shutil
import time

import pytest

from mini_machine import (ENDLESS, GENERATION, GUESTS, LIMIT, Original, Restored, check_moment, counted, follows,
                          goes_on, memory_of, no_partial, refused, restore_refused)
from support import cutter as cutters
from support.vm import KIB, MIB, Machine

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
