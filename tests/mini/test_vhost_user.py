# SPDX-License-Identifier: BSD-2-Clause
"""Devices whose work another process does, with mini-guests: QEMU's storage daemon has the disk, and is late, killed and started
again."""

import mmap
import os
import random
import re
import time
from pathlib import Path

import pytest
from support.back_ends import godwit_blk, image, storage_daemon
from support.vm import KIB, MIB
from test_mini import BACKINGS, LIMIT, MiniGuest, huge_pages  # noqa: F401
from mini_machine import ENDLESS, Original, Restored, RunDirectory

ELASTIC = ("--elastic", "id=hot0,max=64M,size=64M,block=2M")


@pytest.fixture
def daemon(tmp_path):
    with storage_daemon(tmp_path, image(tmp_path / "disk", 1 * MIB)) as back_end:
        yield back_end


def guest(daemon, *arguments, cmdline="rounds=50", **options):
    return MiniGuest("disk", "--disk", f"vhost-user:{daemon.socket}", *arguments, cmdline=cmdline, **options)


def back_end_of(vm, ident="disk"):
    return next(device for device in vm.qmp.command("godwit-devices") if device["id"] == ident)["back-end"]


def wait_back_end(vm, connected, ident="disk"):
    end = time.monotonic() + LIMIT
    while back_end_of(vm, ident)["connected"] != connected:
        assert time.monotonic() < end, back_end_of(vm, ident)
        time.sleep(0.02)
    return back_end_of(vm, ident)


def test_what_is_written_is_read_while_memory_comes_and_goes(daemon, tmp_path):
    daemon.start()
    with guest(daemon, *ELASTIC, cmdline="rounds=200 elastic=1 half=150") as vm:
        vm.checkpoint("half")
        assert vm.numbers["capacity"] == 1 * MIB // 512
        memory = back_end_of(vm)["memory"]
        assert memory["exact"] and memory["excess"] == 0 and 2 <= memory["slots"] <= memory["maximum"]
        vm.go_on().finish()
        assert vm.numbers["resets"] == 0
    assert len(set((tmp_path / "disk").read_bytes())) > 100


def works_on(vm, more=30):
    """Waits for so many rounds from now on; none has failed."""
    heard = -1
    while heard != len(vm.serial.heard):
        heard = len(vm.serial.heard)
        vm.serial.pump(0)
    vm.serial.expect(rf"^round {rounds(vm.serial.heard)[-1] + more}\r?$", LIMIT)
    assert "FAIL" not in vm.serial.heard


def wait_for(look, what):
    end = time.monotonic() + LIMIT
    while not look():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.mark.parametrize("backing", [backing for backing in BACKINGS if backing != "anon"])
def test_back_end_that_fills_unplugged_memory_gets_nothing(daemon, tmp_path, backing, huge_pages):
    """Whoever has been given the guest's memory can map all of it. This process does, as a hostile back-end would."""
    if backing == "hugetlb-2M":
        huge_pages(40)
    option = f"file:{tmp_path}/memory" if backing == "file" else backing
    daemon.start()
    with guest(daemon, "--elastic", f"id=hot0,max=64M,size=64M,block=2M,backing={option}",
               cmdline="rounds=60 half=30 elastic=1") as vm:
        vm.checkpoint("half")
        plugged = region_of(vm)["plugged"]
        memory = open_memory(vm, "hot0", tmp_path / "memory" if backing == "file" else None)
        held = os.fstat(memory).st_blocks
        fill(memory, 48 * MIB, 16 * MIB)  # the guest plugs in the first half
        wait_for(lambda: vm.qmp.command("godwit-memory")["reclaimed"] >= 16 * MIB, "the host holds it still")
        assert region_of(vm)["plugged"] == plugged
        assert os.fstat(memory).st_blocks <= held + MIB // 512  # a file's pages in the cache the host drops by itself
        assert "another process has filled" in vm.stderr()
        os.close(memory)
        vm.go_on().finish()
        assert vm.numbers["resets"] == 0


def region_of(vm):
    return next(region for region in vm.qmp.command("godwit-memory")["regions"] if region["id"] == "hot0")


def open_memory(vm, name, path):
    """A descriptor of the machine's memory, as a back-end gets it."""
    if path:
        return os.open(path, os.O_RDWR)
    for descriptor in Path(f"/proc/{vm.process.pid}/fd").iterdir():
        if os.readlink(descriptor).startswith(f"/memfd:{name} "):
            return os.open(descriptor, os.O_RDWR)
    raise AssertionError(f"no memory of the name {name}")


def fill(memory, offset, size):
    with mmap.mmap(memory, size, offset=offset) as view:
        for page in range(0, size, 4 * KIB):
            view[page] = 1


def test_pieces_of_memory_beyond_the_back_ends_slots(daemon):
    daemon.start()
    with guest(daemon, "--elastic", "id=hot0,max=1G,size=1G,block=2M", "--elastic", "id=hot1,max=1G,size=0,block=4K",
               cmdline="rounds=100 elastic=1") as vm:
        vm.finish()
        assert vm.numbers["resets"] == 0


def test_back_end_may_come_after_the_machine(daemon):
    with guest(daemon) as vm:
        assert not back_end_of(vm)["connected"]
        assert "waiting for its back-end" in back_end_of(vm)["trouble"]
        daemon.start()
        vm.finish()
        assert vm.numbers["capacity"] == 1 * MIB // 512


def test_back_end_may_connect_to_the_machine(tmp_path):
    with godwit_blk(tmp_path, image(tmp_path / "own", 1 * MIB)) as own:
        own.command[own.command.index("--socket")] = "--connect"
        with MiniGuest("disk", "--disk", f"vhost-user:{own.socket},listen=on", cmdline="rounds=60 half=30") as vm:
            assert not back_end_of(vm)["connected"]
            own.start(listens=False)
            vm.checkpoint("half")
            own.kill()
            wait_back_end(vm, False)
            own.start(listens=False)
            wait_back_end(vm, True)
            vm.go_on().finish()
            assert vm.numbers["resets"] == 0


def test_guest_goes_on_with_the_next_back_end(daemon):
    daemon.start()
    with guest(daemon, *ELASTIC, cmdline="rounds=60 half=30 elastic=1") as vm:
        vm.checkpoint("half")
        daemon.kill()
        assert "has hung up" in wait_back_end(vm, False)["trouble"]
        vm.cli("status", vm.name)  # the machine lives on
        daemon.start()
        assert wait_back_end(vm, True)["sessions"] == 2
        vm.go_on().finish()
        assert vm.numbers["resets"] == 0


def test_killed_at_any_time_nothing_is_lost(daemon):
    """The daemon keeps no list of what is under way: where a request was, the disk needs a reset, and the guest does it again."""
    daemon.start()
    generator = random.Random(5)
    with guest(daemon, *ELASTIC, cmdline=f"rounds={ENDLESS} elastic=1") as vm:
        for _ in range(5):
            vm.serial.expect(r"^round \d+\r?$", LIMIT)
            time.sleep(generator.random() / 20)
            daemon.kill()
            daemon.start()
            wait_back_end(vm, True)
        works_on(vm)


def test_paused_machine_leaves_the_disk_alone(daemon, tmp_path):
    daemon.start()
    with guest(daemon, cmdline=f"rounds={ENDLESS}") as vm:
        vm.serial.expect(r"^round 5\r?$", LIMIT)
        vm.cli("pause", vm.name)
        before = (tmp_path / "disk").read_bytes()
        daemon.kill()  # whose successor goes on where this one was
        daemon.start()
        wait_back_end(vm, True)
        assert (tmp_path / "disk").read_bytes() == before
        vm.cli("resume", vm.name)
        works_on(vm)
        assert not any(device["violations"] for device in vm.qmp.command("godwit-devices"))


# --- Snapshots -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(daemon, tmp_path):
    """A snapshot of a machine that is no more; its disk holds what it held then."""
    daemon.start()
    with Original(tmp_path, "disk", "--disk", f"vhost-user:{daemon.socket}", *ELASTIC, cmdline=f"rounds={ENDLESS} elastic=1") as vm:
        vm.wait_lines(100)
        vm.save(tmp_path / "another")
        lines = vm.text().count("\n")
        vm.wait_lines(lines + 50)  # it has gone on
        vm.cli("pause", vm.name)
        vm.save(tmp_path / "snapshot")
        assert back_end_of(vm)["sessions"] == 1
    return tmp_path / "snapshot"


def rounds(text):
    return [int(number) for number in re.findall(r"^round (\d+)\r?$", text[:text.rfind("\n") + 1], re.MULTILINE)]


def test_saved_machine_goes_on_with_its_back_end(saved, tmp_path):
    before = (tmp_path / "original.log").read_text().replace("\r", "")
    with Restored(tmp_path, saved) as vm:
        vm.wait_text(lambda text: len(rounds(text)) > 100)
        done = rounds(before + vm.text())
        assert done == list(range(1, len(done) + 1))


def test_saved_machine_goes_on_with_another_back_end(saved, daemon, tmp_path):
    daemon.kill()
    (tmp_path / "copy").write_bytes((tmp_path / "disk").read_bytes())
    with storage_daemon(tmp_path, tmp_path / "copy") as other:
        other.start()
        with Restored(tmp_path, saved, "--disk", f"vhost-user:{other.socket}") as vm:
            vm.wait_text(lambda text: len(rounds(text)) > 50)


def restore_refusal(folder, saved, *options):
    result = RunDirectory(folder).cli("restore", saved, *options, check=False)
    assert result.returncode
    return result.stderr


def test_restore_without_the_back_end_is_refused(saved, daemon, tmp_path):
    daemon.kill()
    assert "is not there: start it first" in restore_refusal(tmp_path, saved)


def test_memory_that_is_private_to_a_clone_is_refused(saved, tmp_path):
    assert "is private to the VM" in restore_refusal(tmp_path, saved, "--clone")


def test_back_end_and_file_do_not_take_over_from_each_other(saved, tmp_path):
    words = restore_refusal(tmp_path, saved, "--disk", tmp_path / "disk")
    assert "cannot take over the state of a back-end's device" in words


# --- What is refused -----------------------------------------------------------------------------------


@pytest.fixture
def running(daemon):
    daemon.start()
    with guest(daemon, cmdline="rounds=20 half=10") as vm:
        vm.checkpoint("half")
        yield vm
        vm.go_on().finish()


def refusal(vm, *command):
    result = vm.cli(*command, check=False)
    assert result.returncode == 1
    return result.stderr


WORDS = "'disk' is worked by another process, the back-end at "


def test_back_end_with_a_state_of_its_own_is_not_saved(daemon, tmp_path):
    daemon.start()  # that it is a disk in truth does not matter: nothing is known of type 60
    with MiniGuest("counting", "--vhost-user", f"socket={daemon.socket},type=60,id=other", cmdline="steps=1000000000") as vm:
        vm.qmp.command("query-status")
        for command in (("save", vm.name, tmp_path / "snapshot"), ("migrate", vm.name, f"unix:{tmp_path}/nobody")):
            words = refusal(vm, *command)
            assert "'other' is worked by another process" in words and "has a state of its own that it cannot hand over" in words
        assert not list(tmp_path.glob("snapshot*"))


def test_memory_that_a_back_end_cannot_map_is_refused(daemon):
    daemon.start()
    with guest(daemon, "--elastic", "id=hot0,max=64M,backing=anon") as vm:
        assert vm.wait(LIMIT) == 2
        assert "the memory of 'hot0' is private to the VM (backing=anon), and a back-end has to map it" in vm.stderr()


def test_back_end_with_too_few_queues_is_refused(daemon):
    daemon.start()
    with MiniGuest("disk", "--disk", f"vhost-user:{daemon.socket},queues=2") as vm:
        assert vm.wait(LIMIT) == 2
        assert "has 1 queues, and the device is to have 2" in vm.stderr()


def test_more_memory_blocks_than_slots_are_refused(daemon):
    daemon.start()
    many = [word for i in range(32) for word in ("--elastic", f"id=hot{i},max=2M,block=2M")]
    with guest(daemon, *many) as vm:
        assert vm.wait(LIMIT) == 2
        assert "takes 32 pieces of memory, and the machine has 33" in vm.stderr()


def test_disk_is_not_restored_into_a_back_end(daemon, tmp_path):
    with MiniGuest("disk", "--disk", image(tmp_path / "own", 1 * MIB), cmdline="rounds=20 half=10") as vm:
        vm.checkpoint("half")
        vm.cli("save", vm.name, tmp_path / "snapshot")
        vm.go_on().finish()
        for options in ((), ("--lazy",), ("--clone",)):
            result = vm.cli("restore", tmp_path / "snapshot", *options, "--disk", f"vhost-user:{daemon.socket}", check=False)
            assert result.returncode == 2
            assert "cannot take over the state of another one" in result.stderr
