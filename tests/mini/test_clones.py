# SPDX-License-Identifier: BSD-2-Clause
"""Clones: machines that go on from one snapshot and share its pages until they write to them."""

import hashlib
import os
import re
import time
from pathlib import Path

import pytest

from support.mapped_ram import PAGE, Snapshot
from support.vm import BUILD, KIB, MIB, Failure, Machine

GUESTS = BUILD / "tests/mini"
LIMIT = 240  # an emulated processor executes a million instructions a second
GENERATION = 0xfe000
COUNTED = 0x2000000  # where the guest counts in boot memory


class Original(Machine):
    """A guest that counts in pages of its memory, in boot memory and in every other block of elastic memory."""

    def __init__(self, folder, *arguments, memory="64M", cmdline="pages=256 steps=100000", guest="counting"):
        self.log = Path(folder) / "original.log"
        super().__init__("--kernel", GUESTS / f"{guest}.elf", "--cmdline", f"mini {cmdline}", "--memory", memory,
                         "--on-crash=exit", "--serial", f"file:{self.log}", *arguments, serial=False, console=False)


class Clone(Machine):
    COMMAND = ("restore",)
    count = 0

    def __init__(self, folder, file, *arguments, way=("--clone",), **options):
        Clone.count += 1
        self.log = Path(folder) / f"clone{Clone.count}.log"
        super().__init__(file, *way, "--serial", f"file:{self.log}", *arguments, serial=False, console=False,
                         **options)

    def verified(self):
        end = time.monotonic() + LIMIT
        while not self.qmp.command("godwit-restore")["resident"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        return self


def said(vm):
    return vm.log.read_text().replace("\r", "") if vm.log.exists() else ""


def wait_lines(vm, count):
    return wait_said(vm, lambda text: text.count("\n") >= count)


def wait_said(vm, condition):
    end = time.monotonic() + LIMIT
    while not condition(said(vm)):
        vm.check_alive()
        if time.monotonic() > end:
            raise Failure(f"{vm.name} says {said(vm)[-500:]!r}")
        time.sleep(0.02)
    assert "FAIL" not in said(vm)
    return vm


def counted(steps):
    return "".join(f"step {n}\n" for n in range(1, steps + 1)) + "done\n"


def save(vm, file, *options):
    vm.qmp.command("query-status")  # it is there
    vm.cli("save", vm.name, file, *options, limit=LIMIT)
    return file


@pytest.fixture
def snapshot(tmp_path):
    """Of a guest that has counted to 3 and counts on without an end."""
    with Original(tmp_path) as vm:
        return save(wait_lines(vm, 3), tmp_path / "snap")


def refused(vm, file, *arguments):
    log = vm.directory / "refused.log"
    result = vm.cli("restore", file, "--name", "refused", "--serial", f"file:{log}", *arguments, check=False)
    assert result.returncode in (1, 2) and (not log.exists() or log.read_text() == "")
    return result.stderr.strip()


def memory_of(vm, file, folder):
    out = Path(folder) / f"{Path(file).name}.raw"
    out.unlink(missing_ok=True)
    vm.cli("snapshot", "export", file, out, "--raw", "memory0")
    return out.read_bytes()


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
    steps = 24
    with Original(tmp_path, "--elastic", "id=mem0,max=64M,size=64M", cmdline=f"pages=128 steps={steps} elastic=2") as vm:
        wait_lines(vm, 3)
        file = save(vm, tmp_path / "snap")
        vm.kill()
    before = digest(file)
    clones = [Clone(tmp_path, file) for _ in range(3)]
    try:
        for number, clone in enumerate(clones):
            assert clone.elastic("mem0")["size"] == 4 * MIB
            if number == 0:
                clone.cli("pause", clone.name)
        for clone in clones[1:]:
            assert clone.wait(LIMIT) == 0
            assert counted(steps).endswith(said(clone))
        clones[0].cli("resume", clones[0].name)
        assert clones[0].wait(LIMIT) == 0
        assert counted(steps).endswith(said(clones[0]))
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
    count = 60
    with Original(tmp_path, guest="moving", cmdline=f"rounds={count}") as vm:
        file = save(wait_lines(vm, 3), tmp_path / "snap")
    with Clone(tmp_path, file, "--verify", "first") as vm:
        assert vm.wait(LIMIT) == 0
        assert "".join(f"round {n}\n" for n in range(1, count + 1)).endswith(said(vm).removesuffix("done\n"))


# --- They share ---------------------------------------------------------------------------------------


def test_pages_are_shared_until_they_are_written_to(tmp_path):
    """64 MiB of content, of which the guest touches little: four clones together hold it once."""
    size, pages = 64 * MIB, 16384
    with Original(tmp_path, memory="128M", cmdline=f"pages={pages} steps=100000") as vm:
        wait_lines(vm, 1)
        vm.cli("pause", vm.name)
        file = save(vm, tmp_path / "snap")
    clones = []
    try:
        for _ in range(4):
            clones.append(Clone(tmp_path, file, "--paused"))
            clones[-1].verified()
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
        wait_lines(clone, 3)
        summary = clone.qmp.command("godwit-memory")["summary"]
        assert summary["resident"] >= size
        assert clones[1].qmp.command("godwit-memory")["summary"]["resident"] < MIB
    finally:
        for clone in clones:
            clone.kill()


def test_shared_and_own_pages_are_reported(tmp_path, snapshot):
    with Clone(tmp_path, snapshot) as vm:
        wait_lines(vm, 3)
        memory = vm.qmp.command("godwit-memory")
        assert memory["regions"][0]["backing"] == "anon"
        assert memory["summary"]["resident"] >= 256 * 4 * KIB
        assert memory["summary"]["shared"] == sum(region["shared"] or 0 for region in memory["regions"])
        report = vm.verified().qmp.command("godwit-restore")
        assert report["clone"] and report["done"] == report["total"] >= 256 * 4 * KIB


def test_memory_that_is_unplugged_comes_back_as_zeros(tmp_path):
    """A reset unplugs what the snapshot had plugged and filled; the guest plugs it again and counts from 0."""
    with Original(tmp_path, "--elastic", "id=mem0,max=64M,size=64M", cmdline="pages=0 steps=100000 elastic=2") as vm:
        file = save(wait_lines(vm, 3), tmp_path / "snap")
    with Clone(tmp_path, file) as vm:
        wait_lines(vm, 2)
        vm.cli("reset", vm.name)
        wait_said(vm, lambda text: "step 1\nstep 2\n" in text)
        assert vm.elastic("mem0")["size"] == 4 * MIB
        copy = save(vm, tmp_path / "copy")
    with Clone(tmp_path, copy, way=()) as vm:
        wait_lines(vm, 2)


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
        wait_lines(vm, 3)
        later = save(vm, tmp_path / "later", *options)
        if based:
            assert os.stat(copy).st_blocks * 512 < MIB
            assert "cannot be shared" in refused(vm, later, "--clone")
    with Clone(tmp_path, later, way=("--lazy",)) as vm:
        wait_lines(vm, 3)
        assert int(said(vm).splitlines()[0].split()[1]) > 4


def test_a_running_clone_cannot_be_saved_live(tmp_path, snapshot):
    with Clone(tmp_path, snapshot) as vm:
        vm.qmp.command("query-status")
        result = vm.cli("save", vm.name, tmp_path / "copy", "--live", check=False)
        assert result.returncode == 1 and "is a clone's" in result.stderr
        wait_lines(vm, 3)
        save(vm, tmp_path / "copy")


def test_a_snapshot_that_is_saved_over_stays_with_its_clones(tmp_path, snapshot):
    with Clone(tmp_path, snapshot) as first:
        wait_lines(first, 2)
        with Clone(tmp_path, snapshot) as second:
            wait_lines(second, 3)
            save(second, snapshot)
        snapshot.unlink()
        wait_lines(first, 6)


# --- What is wrong with the file ----------------------------------------------------------------------


@pytest.mark.parametrize("when", ["first", "meanwhile", "never"])
def test_damage_is_found_when_it_was_asked_for(tmp_path, snapshot, when):
    damage(snapshot, COUNTED + 100)
    with Clone(tmp_path, snapshot, "--verify", when) as vm:
        if when == "never":
            wait_lines(vm, 2)
            return
        assert vm.wait(LIMIT) == 1
        assert "checksum" in vm.stderr()
        if when == "first":
            assert said(vm) == ""
        else:
            assert "the VM ends" in vm.stderr()


def test_what_is_in_a_hole_is_damage(tmp_path, snapshot):
    """The format gives no meaning to what is between stored pages; a clone would show it to the guest."""
    block = Snapshot(snapshot).block("memory0")
    page = next(page for page in range(block.size // PAGE)
                if not block.stored(page) and any(block.stored(other) for other in range(page - page % 64, page)))
    damage(snapshot, page * PAGE)
    with Clone(tmp_path, snapshot, way=()) as vm:  # for a restore that reads what is stored, it is none
        wait_lines(vm, 2)
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


def test_other_backings_become_anonymous(tmp_path):
    with Original(tmp_path, memory=f"64M,backing=file:{tmp_path}/ram") as vm:
        file = save(wait_lines(vm, 3), tmp_path / "snap")
        with Clone(tmp_path, file) as first, Clone(tmp_path, file) as second:  # while the file is in use
            wait_lines(first, 2)
            wait_lines(second, 2)
            assert "backed by file:" in first.stderr()
