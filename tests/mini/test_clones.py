# SPDX-License-Identifier: BSD-2-Clause
"""Clones: machines that go on from one snapshot and share its pages until they write to them."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from support.mapped_ram import PAGE, Snapshot
from support.vm import KIB, MIB, Machine
from mini_machine import ENDLESS, GENERATION, LIMIT, Going, Original, goes_on, memory_of

COUNTED = 0x2000000  # where the guest counts in boot memory


class Counting(Original):
    """A guest that counts in pages of its memory, in boot memory and in every other block of elastic memory."""

    def __init__(self, folder, *arguments, cmdline=f"pages=256 steps={ENDLESS}", **options):
        super().__init__(folder, "counting", *arguments, cmdline=cmdline, **options)


class Clone(Going, Machine):
    COMMAND = ("restore",)
    count = 0

    def __init__(self, folder, file, *arguments, way=("--clone",), **options):
        Clone.count += 1
        super().__init__(file, *way, *self.start(folder, f"clone{Clone.count}"), *arguments, serial=False, console=False,
                         **options)


def save(vm, file, *options):
    vm.qmp.command("query-status")  # it is there
    vm.cli("save", vm.name, file, *options, limit=LIMIT)
    return file


@pytest.fixture
def snapshot(tmp_path):
    """Of a guest that has counted to 3 and counts on without an end."""
    with Counting(tmp_path) as vm:
        return save(vm.wait_lines(3), tmp_path / "snap")


def refused(vm, file, *arguments):
    log = vm.directory / "refused.log"
    result = vm.cli("restore", file, "--name", "refused", "--serial", f"file:{log}", *arguments, check=False)
    assert result.returncode in (1, 2) and (not log.exists() or log.read_text() == "")
    return result.stderr.strip()


def rollup(vm):
    text = Path(f"/proc/{vm.process.pid}/smaps_rollup").read_text()
    return {name: int(value) * KIB for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}


def digest(file):
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def damage(file, offset):
    """Changes a byte of boot memory in the file."""
    with open(file, "r+b") as opened:
        opened.seek(Snapshot(file).block("memory0").pages_offset + offset)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))


# --- They go on ---------------------------------------------------------------------------------------


def test_several_clones_go_on_at_once_each_for_itself(tmp_path):
    with Counting(tmp_path, "--elastic", "id=mem0,max=64M,size=64M",
                  cmdline=f"pages=128 steps={ENDLESS} elastic=2") as vm:
        file = save(vm.wait_lines(3), tmp_path / "snap")
    before = digest(file)
    clones = [Clone(tmp_path, file) for _ in range(3)]
    try:
        for number, clone in enumerate(clones):
            assert clone.elastic("mem0")["size"] == 4 * MIB
            if number == 0:
                clone.cli("pause", clone.name)
        for clone in clones[1:]:
            goes_on(clone, 10)
        clones[0].cli("resume", clones[0].name)
        for clone in clones:
            goes_on(clone, 10)
    finally:
        for clone in clones:
            clone.kill()
    assert digest(file) == before


def test_each_clone_has_an_id_of_its_own(tmp_path, snapshot):
    ids = set()
    for number in range(3):
        with Clone(tmp_path, snapshot, "--paused") as vm:
            memory = memory_of(vm, save(vm, tmp_path / f"copy{number}"), tmp_path)
            ids.add(memory[GENERATION:GENERATION + 16])
    with Clone(tmp_path, snapshot, "--paused") as vm:
        ids.add(memory_of(vm, snapshot, tmp_path)[GENERATION:GENERATION + 16])
    assert len(ids) == 4 and bytes(16) not in ids


def test_processor_of_a_clone_goes_on(tmp_path):
    with Original(tmp_path, "moving", cmdline=f"rounds={ENDLESS}") as vm:
        file = save(vm.wait_lines(3), tmp_path / "snap")
    with Clone(tmp_path, file, "--verify", "first") as vm:
        goes_on(vm, 30)


# --- They share ---------------------------------------------------------------------------------------


def test_pages_are_shared_until_they_are_written_to(tmp_path):
    """64 MiB of content, of which the guest touches little: four clones together hold it once."""
    size, pages = 64 * MIB, 16384
    with Counting(tmp_path, memory="128M", cmdline=f"pages={pages} steps={ENDLESS}") as vm:
        vm.wait_lines(1)
        vm.cli("pause", vm.name)
        file = save(vm, tmp_path / "snap")
    clones = []
    try:
        for _ in range(4):
            clones.append(Clone(tmp_path, file, "--paused"))
            clones[-1].wait_resident()
        for clone in clones:
            summary = clone.qmp.command("godwit-memory")["summary"]
            assert summary["resident"] < MIB
            assert rollup(clone)["Pss"] < 16 * MIB
            assert rollup(clone)["Private_Dirty"] < 8 * MIB
        # A save reads everything, and that is all it does to memory.
        for number, clone in enumerate(clones):
            copy = save(clone, tmp_path / f"copy{number}", "--base", file)
            assert os.stat(copy).st_blocks * 512 < MIB
        for clone in clones:
            summary = clone.qmp.command("godwit-memory")["summary"]
            assert summary["resident"] < MIB and summary["shared"] >= size
            used = rollup(clone)
            assert used["Rss"] > size and used["Private_Dirty"] < 8 * MIB
            assert size / 4 < used["Pss"] < size / 4 + 8 * MIB
        # Once it has counted through it all, it is its own.
        clone = clones[0]
        clone.cli("resume", clone.name)
        clone.wait_lines(3)
        summary = clone.qmp.command("godwit-memory")["summary"]
        assert summary["resident"] >= size
        assert clones[1].qmp.command("godwit-memory")["summary"]["resident"] < MIB
    finally:
        for clone in clones:
            clone.kill()


def test_shared_and_own_pages_are_reported(tmp_path, snapshot):
    with Clone(tmp_path, snapshot) as vm:
        vm.wait_lines(3)
        memory = vm.qmp.command("godwit-memory")
        assert memory["regions"][0]["backing"] == "anon"
        assert memory["summary"]["resident"] >= 256 * 4 * KIB
        assert memory["summary"]["shared"] == sum(region["shared"] or 0 for region in memory["regions"])
        report = vm.wait_resident()
        assert report["clone"] and report["done"] == report["total"] >= 256 * 4 * KIB


def test_memory_that_is_unplugged_comes_back_as_zeros(tmp_path):
    """A reset unplugs what the snapshot had plugged and filled; the guest plugs it again and counts from 0."""
    with Counting(tmp_path, "--elastic", "id=mem0,max=64M,size=64M", reboot=True,
                  cmdline=f"pages=0 steps={ENDLESS} elastic=2") as vm:
        file = save(vm.wait_lines(3), tmp_path / "snap")
    with Clone(tmp_path, file) as vm:
        vm.wait_lines(2)
        vm.cli("reset", vm.name)
        vm.wait_text(lambda text: "step 1\nstep 2\n" in text)
        assert vm.elastic("mem0")["size"] == 4 * MIB
        copy = save(vm, tmp_path / "copy")
    with Clone(tmp_path, copy, way=()) as vm:
        vm.wait_lines(2)


# --- They are saved -----------------------------------------------------------------------------------


@pytest.mark.parametrize("based", [False, True])
def test_a_clone_is_saved_whole_whether_it_has_touched_a_page_or_not(tmp_path, snapshot, based):
    with Clone(tmp_path, snapshot, "--paused") as vm:
        original = memory_of(vm, snapshot, tmp_path)
        options = ("--base", snapshot) if based else ()
        copy = save(vm, tmp_path / "copy", *options)
        image = memory_of(vm, copy, tmp_path)
        differing = {at // 4096 for at in range(0, len(image), 4096) if image[at:at + 4096] != original[at:at + 4096]}
        assert differing == {GENERATION // 4096}
        vm.cli("resume", vm.name)
        vm.wait_lines(3)
        later = save(vm, tmp_path / "later", *options)
        if based:
            assert os.stat(copy).st_blocks * 512 < MIB
            assert "cannot be shared" in refused(vm, later, "--clone")
    with Clone(tmp_path, later, way=("--lazy",)) as vm:
        vm.wait_lines(3)
        assert int(vm.text().splitlines()[1].split()[1]) > 5


def test_a_running_clone_cannot_be_saved_live(tmp_path, snapshot):
    with Clone(tmp_path, snapshot) as vm:
        vm.qmp.command("query-status")
        result = vm.cli("save", vm.name, tmp_path / "copy", "--live", check=False)
        assert result.returncode == 1 and "is a clone's" in result.stderr
        vm.wait_lines(3)
        save(vm, tmp_path / "copy")


def test_a_snapshot_that_is_saved_over_stays_with_its_clones(tmp_path, snapshot):
    with Clone(tmp_path, snapshot) as first:
        first.wait_lines(2)
        with Clone(tmp_path, snapshot) as second:
            second.wait_lines(3)
            save(second, snapshot)
        snapshot.unlink()
        first.wait_lines(6)


# --- What is wrong with the file ----------------------------------------------------------------------


@pytest.mark.parametrize("when", ["first", "meanwhile", "never"])
def test_damage_is_found_when_it_was_asked_for(tmp_path, snapshot, when):
    damage(snapshot, COUNTED + 100)
    with Clone(tmp_path, snapshot, "--verify", when) as vm:
        if when == "never":
            vm.wait_lines(2)
            return
        assert vm.wait(LIMIT) == 1
        assert "checksum" in vm.stderr()
        if when == "first":
            assert vm.text() == ""
        else:
            assert "the VM ends" in vm.stderr()


def test_what_is_in_a_hole_is_damage(tmp_path, snapshot):
    """The format gives no meaning to what is between stored pages; a clone would show it to the guest."""
    block = Snapshot(snapshot).block("memory0")
    page = next(page for page in range(block.size // PAGE)
                if not block.stored(page) and any(block.stored(other) for other in range(page - page % 64, page)))
    damage(snapshot, page * PAGE)
    with Clone(tmp_path, snapshot, way=()) as vm:  # for a restore that reads what is stored, it is none
        vm.wait_lines(2)
    with Clone(tmp_path, snapshot) as vm:
        assert vm.wait(LIMIT) == 1
        assert "checksum" in vm.stderr()


@pytest.mark.parametrize("running", [True, False])
def test_a_file_that_is_cut_off_ends_its_clone_with_a_message(tmp_path, snapshot, running):
    with Clone(tmp_path, snapshot, *(() if running else ("--paused",)), "--verify", "first") as vm:
        vm.qmp.command("query-status")
        os.truncate(snapshot, MIB)
        if not running:
            vm.cli("resume", vm.name, check=False)
        assert vm.wait(LIMIT) == 1
        assert "the VM ends" in vm.stderr() and "cut off" in vm.stderr()


@pytest.mark.parametrize("options, why", [
    (("--clone", "--lazy"), "--lazy is needless with --clone, which brings nothing before it is needed: leave it out"),
    (("--clone", "--direct"), "--direct reads past the page cache, and a --clone shares it: leave one out"),
    (("--clone", "--base", "/nowhere"), "--base: a snapshot with a base cannot be cloned; make one file of it with "
                                        "'godwit snapshot flatten'"),
    (("--clone", "--verify", "later"), "'later' is not meanwhile, first or never"),
    (("--verify", "first"), "--verify is for a --clone"),
])
def test_what_does_not_go_together_is_refused_by_name(tmp_path, snapshot, options, why):
    with Clone(tmp_path, snapshot, "--paused") as vm:
        assert why in refused(vm, snapshot, *options)


@pytest.mark.parametrize("backing", ["memfd", "anon", "prealloc", "hugetlb", "tmpfs", "file"])
def test_other_backings_become_anonymous(tmp_path, backing_of, backing):
    with Counting(tmp_path, memory=f"64M,{backing_of(backing)}") as vm:
        file = save(vm.wait_lines(3), tmp_path / "snap", *(() if backing == "file" else ("--live",)))
        with Clone(tmp_path, file) as first, Clone(tmp_path, file) as second:  # while the file is in use
            goes_on(first)
            goes_on(second)
            told = {"hugetlb": "backed by hugetlb", "tmpfs": "backed by file:", "file": "backed by file:"}.get(backing)
            assert told in first.stderr() if told else "backed by" not in first.stderr()
