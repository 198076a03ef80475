# SPDX-License-Identifier: BSD-2-Clause
"""Machines whose devices other processes work are moved, saved and restored while they run, with mini-guests: a back-end at each
end, and the same disk behind both."""

import threading
import time

import pytest
from support.back_ends import godwit_blk, image, storage_daemon
from support.migration_proxy import Proxy
from support.vm import MIB
from mini_move import SLOW, Cut, Destination, Source, at, guest_memory, recover, release, settle
from mini_machine import ENDLESS, LIMIT, Restored, RunDirectory, refused
from test_vhost_user import ELASTIC, back_end_of, rounds, wait_back_end, wait_for

WRITING = f"rounds={ENDLESS} elastic=1 kept=40"
STEADY = f"rounds={ENDLESS} kept=40"  # what is being sent slowly is not unplugged
BALLAST = " ballast=1000"  # what nobody touches: it is lacking for long, and fills pipes


def folder(path):
    path.mkdir(exist_ok=True)
    return path


class Ends:
    """A disk, and a back-end of it for each end."""

    def __init__(self, here, there):
        self.here, self.there = here, there

    def __enter__(self):
        self.here.start()
        self.there.start()
        return self

    def __exit__(self, *exception):
        self.here.__exit__(*exception)
        self.there.__exit__(*exception)


def blk_ends(tmp_path, *there):
    disk = image(tmp_path / "disk", 1 * MIB)
    return Ends(godwit_blk(folder(tmp_path / "here"), disk), godwit_blk(folder(tmp_path / "there"), disk, *there))


@pytest.fixture
def ends(tmp_path):
    with blk_ends(tmp_path) as ends:
        yield ends


def source_of(tmp_path, ends, *arguments, cmdline=WRITING):
    return Source(tmp_path, "disk", "--disk", f"vhost-user:{ends.here.socket}", *ELASTIC, *arguments, cmdline=cmdline)


def destination_of(tmp_path, ends, *arguments, options="", wait=True):
    vm = Destination(tmp_path, f"unix:{tmp_path}/socket", "--disk", f"vhost-user:{ends.there.socket}{options}", *arguments)
    if wait:
        vm.wait_said("waiting for a VM")
    return vm


def check_went_on(*vms, more=30):
    """What the guest has said in one after the other is each round once."""
    heard = rounds(vms[-1].text())[-1:] or [0]
    vms[-1].wait_text(lambda text: (rounds(text)[-1:] or [0])[0] >= heard[0] + more)
    text = "".join(vm.text() for vm in vms)
    assert "FAIL" not in text
    done = rounds(text)
    assert done == list(range(1, len(done) + 1))


def check_same_memory(here, there):
    """Byte by byte."""
    for name in ("memory0", "hot0"):
        mine, other = guest_memory(here)[name], guest_memory(there)[name]
        pages = [at for at in range(0, len(mine), 4096) if mine[at:at + 4096] != other[at:at + 4096]]
        assert pages == [], f"{name}: {[hex(page) for page in pages[:20]]}"


# --- Pre-copy ----------------------------------------------------------------------------------------


def move_slowly(source, destination, uri):
    """The back-end writes a good deal meanwhile, and so also to what was sent before."""
    source.migrate(uri, "--bandwidth", "1K", "--max-downtime", "20", "--no-wait")
    destination.wait_state("RECEIVING")
    check_went_on(source, more=60)
    source.qmp.command("godwit-migrate-limit", bandwidth=0)


def test_guest_moves_from_back_end_to_back_end(tmp_path, ends):
    with source_of(tmp_path, ends) as source, destination_of(tmp_path, ends) as destination:
        source.wait_lines(20)
        source.migrate(f"unix:{tmp_path}/socket")
        assert source.wait(LIMIT) == 0
        check_went_on(source, destination, more=100)
        assert back_end_of(destination)["sessions"] == 1


def test_what_the_back_end_writes_meanwhile_is_sent(tmp_path, ends):
    with source_of(tmp_path, ends, cmdline=STEADY) as source, destination_of(tmp_path, ends) as destination:
        source.wait_lines(20)
        move_slowly(source, destination, f"unix:{tmp_path}/socket")
        assert source.wait(LIMIT) == 0
        check_went_on(source, destination, more=100)


def test_memory_is_the_same_byte_by_byte(tmp_path, ends):
    """The link is cut at the last word, so that both ends stand still, with all there is."""
    with source_of(tmp_path, ends, cmdline=STEADY) as source, destination_of(tmp_path, ends, "--paused") as destination:
        source.wait_lines(20)
        with Proxy(tmp_path / "proxy", tmp_path / "socket", at("RUNNING", "before")):
            move_slowly(source, destination, f"unix:{tmp_path}/proxy")
            destination.wait_state("RUNNING")
            check_same_memory(source, destination)
            source.wait_state("UNDECIDED")
            settle(source, "give-up")
            assert source.wait(LIMIT) == 0
        destination.cli("resume", destination.name)
        check_went_on(source, destination)


def test_cancelled_migration_leaves_the_guest_with_its_back_end(tmp_path, ends):
    with source_of(tmp_path, ends, cmdline=STEADY) as source, destination_of(tmp_path, ends) as destination:
        source.wait_lines(20)
        source.migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K", "--no-wait")
        destination.wait_state("RECEIVING")
        check_went_on(source, more=5)  # writes are logged
        source.cli("jobs", source.name, "--cancel", source.job()["id"])
        assert destination.wait(LIMIT) == 1
        check_went_on(source)
        with destination_of(tmp_path, ends) as another:
            source.migrate(f"unix:{tmp_path}/socket")
            assert source.wait(LIMIT) == 0
            check_went_on(source, another)


def test_guest_that_stands_still_already_goes_on_with_its_back_end(tmp_path, ends):
    """The rings have been given back when the connection breaks."""
    with source_of(tmp_path, ends) as source, destination_of(tmp_path, ends) as destination:
        source.wait_lines(20)
        with Proxy(tmp_path / "proxy", tmp_path / "socket", at("SWITCH_BEGIN", "before")):
            refused(source.migrate(f"unix:{tmp_path}/proxy", check=False))
        assert destination.wait(LIMIT) == 1
        check_went_on(source)


def test_back_end_may_be_replaced_while_the_guest_moves(tmp_path, ends):
    """What the one that was killed has not marked is sent as well."""
    with source_of(tmp_path, ends, cmdline=STEADY) as source, destination_of(tmp_path, ends, "--paused") as destination:
        source.wait_lines(20)
        with Proxy(tmp_path / "proxy", tmp_path / "socket", at("RUNNING", "before")):
            source.migrate(f"unix:{tmp_path}/proxy", "--bandwidth", "1K", "--no-wait")
            destination.wait_state("RECEIVING")
            for _ in range(3):
                ends.here.kill()
                ends.here.start()
                wait_back_end(source, True)
                check_went_on(source, more=5)
            source.qmp.command("godwit-migrate-limit", bandwidth=0)
            destination.wait_state("RUNNING")
            check_same_memory(source, destination)
            source.wait_state("UNDECIDED")
            settle(source, "give-up")
            assert source.wait(LIMIT) == 0
        destination.cli("resume", destination.name)
        check_went_on(source, destination)


def test_guest_moves_between_storage_daemons(tmp_path):
    disk = image(tmp_path / "disk", 1 * MIB)
    # Theirs lock the disk as long as they live.
    with Ends(storage_daemon(folder(tmp_path / "here"), disk, lock=False),
              storage_daemon(folder(tmp_path / "there"), disk, lock=False)) as ends:
        with source_of(tmp_path, ends) as source, destination_of(tmp_path, ends) as destination:
            source.wait_lines(20)
            source.migrate(f"unix:{tmp_path}/socket")
            assert source.wait(LIMIT) == 0
            check_went_on(source, destination)


def test_memory_is_handed_over_to_a_machine_with_a_back_end(tmp_path, ends):
    with source_of(tmp_path, ends) as source, destination_of(tmp_path, ends) as destination:
        source.wait_lines(20)
        source.migrate(f"unix:{tmp_path}/socket", "--share-memory")
        assert source.wait(LIMIT) == 0
        check_went_on(source, destination)


def test_back_end_that_is_not_there_is_refused_before_memory_is_sent(tmp_path, ends):
    ends.there.kill()
    with source_of(tmp_path, ends) as source, destination_of(tmp_path, ends) as destination:
        source.wait_lines(20)
        said = refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
        assert "the destination refuses: the back-end of 'disk' is not there: start it first" in said
        assert destination.wait(LIMIT) == 1
        check_went_on(source)


def test_machine_whose_back_end_never_came_is_not_moved(tmp_path, ends):
    ends.here.kill()
    with source_of(tmp_path, ends) as source:
        said = refused(source.migrate(f"unix:{tmp_path}/nobody", check=False))
        assert "'disk' is worked by another process, and the back-end at " in said and "start it first" in said


# --- Post-copy ---------------------------------------------------------------------------------------


def begin_postcopy(source, destination, tmp_path):
    source.migrate(f"unix:{tmp_path}/socket", "--postcopy", "--no-wait", *SLOW)
    destination.wait_state("RUNNING_LACKING")


@pytest.mark.parametrize("dialect,cmdline", [("table", STEADY), ("slots", WRITING)], ids=["table", "slots"])
def test_back_end_waits_for_memory_as_a_processor_does(tmp_path, ends, dialect, cmdline):
    with source_of(tmp_path, ends, cmdline=cmdline + BALLAST) as source:
        source.wait_lines(200)
        with destination_of(tmp_path, ends, options=f",postcopy={dialect}") as destination:
            begin_postcopy(source, destination, tmp_path)
            check_went_on(source, destination, more=100)
            assert destination.migration()["lacking-pages"] > 0
            release(source)
            assert source.wait(LIMIT) == 0
            destination.wait_state("RUNNING")
            check_went_on(source, destination, more=60)
            assert back_end_of(destination)["sessions"] == 1


def test_back_end_may_be_replaced_while_memory_is_lacking(tmp_path, ends):
    with source_of(tmp_path, ends, cmdline=STEADY + BALLAST) as source, destination_of(tmp_path, ends) as destination:
        source.wait_lines(20)
        begin_postcopy(source, destination, tmp_path)
        for _ in range(3):
            check_went_on(source, destination, more=5)
            ends.there.kill()
            ends.there.start()
            wait_back_end(destination, True)
        check_went_on(source, destination, more=60)
        assert destination.migration()["lacking-pages"] > 0
        release(source)
        assert source.wait(LIMIT) == 0
        check_went_on(source, destination, more=60)


def test_back_end_waits_for_a_connection_that_is_made_anew(tmp_path, ends):
    with source_of(tmp_path, ends, cmdline=STEADY + BALLAST) as source, destination_of(tmp_path, ends) as destination:
        source.wait_lines(60)
        with Cut((source, destination), tmp_path, at("PAGE_REQUEST", "before", 3), options=("--postcopy", *SLOW)):
            destination.wait_state("RUNNING_LACKING_CUT")
        release(source)
        recover(source, destination, tmp_path)
        assert source.wait(LIMIT) == 0
        check_went_on(source, destination, more=60)


def test_device_of_a_back_end_that_cannot_wait_stands_still(tmp_path):
    """QEMU's library says that it can, and does not say where it has mapped what."""
    disk = image(tmp_path / "disk", 1 * MIB)
    with Ends(storage_daemon(folder(tmp_path / "here"), disk, lock=False),
              storage_daemon(folder(tmp_path / "there"), disk, lock=False)) as ends:
        with source_of(tmp_path, ends, cmdline=STEADY + BALLAST) as source, destination_of(tmp_path, ends) as destination:
            source.wait_lines(60)
            begin_postcopy(source, destination, tmp_path)
            destination.wait_said("the device stands still until all of it is there")
            assert len(rounds(destination.text())) <= 1  # what it was about to say
            release(source)
            assert source.wait(LIMIT) == 0
            check_went_on(source, destination, more=60)


# --- Snapshots ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("back_end", [godwit_blk, storage_daemon])
def test_lazily_restored_memory_comes_for_the_back_end_too(tmp_path, back_end):
    disk = image(tmp_path / "disk", 1 * MIB)
    with back_end(folder(tmp_path / "here"), disk) as here:
        here.start()
        with Source(tmp_path, "disk", "--disk", f"vhost-user:{here.socket}", *ELASTIC, cmdline=STEADY) as vm:
            vm.wait_lines(60)
            vm.cli("pause", vm.name)
            vm.save(tmp_path / "snapshot")
        for _ in range(2):
            with Restored(tmp_path, tmp_path / "snapshot", "--lazy", "--channels", "1") as restored:
                check_went_on(vm, restored, more=60)
                assert restored.wait_resident()["asked"] > 0
                restored.cli("pause", restored.name)
                restored.save(tmp_path / "snapshot")
                vm.log.write_text(vm.text() + restored.text())


class SlowSave:
    """A live save that goes on behind its first byte when it is told to."""

    def __init__(self, vm, folder):
        self.vm, self.file, self.go = vm, folder / "snapshot", folder / "go"
        first, rest = folder / "first", folder / "rest"
        command = (f"exec:dd bs=1 count=1 of={first} status=none; while [ ! -e {self.go} ]; do sleep 0.05; done; cat > {rest}; "
                   f"cat {first} {rest} > {self.file}")
        self.thread = threading.Thread(target=lambda: self.vm.save(command, "--live", check=False))
        self.thread.start()
        wait_for(lambda: first.exists() and first.stat().st_size, "nothing is written")

    def finish(self):
        self.go.touch()
        self.thread.join()


def test_live_save_has_the_device_rest_until_memory_is_written(tmp_path, ends):
    """What is written goes into a pipe that nobody empties for a while. The disk stands still so long, and the processor does not."""
    with source_of(tmp_path, ends, cmdline=STEADY + BALLAST) as vm:
        vm.wait_lines(60)
        save = SlowSave(vm, tmp_path)
        assert vm.qmp.command("query-status")["status"] == "running"
        disk = (tmp_path / "disk").read_bytes()
        done = rounds(vm.text())[-1]
        time.sleep(0.3)
        assert (tmp_path / "disk").read_bytes() == disk and rounds(vm.text())[-1] <= done + 1
        (tmp_path / "copy").write_bytes(disk)
        save.finish()
        check_went_on(vm)
        assert "error" not in vm.job()
    with godwit_blk(folder(tmp_path / "other"), tmp_path / "copy") as other:
        other.start()
        with Restored(tmp_path, save.file, "--disk", f"vhost-user:{other.socket}") as restored:
            restored.wait_text(lambda text: len(rounds(text)) > 60)
            again = rounds(restored.text())
            assert done <= again[0] <= done + 1 and again == list(range(again[0], again[0] + len(again)))


def test_cancelled_live_save_lets_the_device_go_on(tmp_path, ends):
    with source_of(tmp_path, ends, cmdline=STEADY + BALLAST) as vm:
        vm.wait_lines(20)
        save = SlowSave(vm, tmp_path)
        vm.cli("jobs", vm.name, "--cancel", vm.job()["id"])
        check_went_on(vm)
        save.finish()


# --- The back-end's own state ------------------------------------------------------------------------


def test_state_of_a_back_end_goes_along(tmp_path):
    """godwit-blk's has the size of its disk, and takes that of no other."""
    disk, larger = image(tmp_path / "disk", 1 * MIB), image(tmp_path / "larger", 2 * MIB)
    with godwit_blk(folder(tmp_path / "here"), disk) as here, godwit_blk(folder(tmp_path / "there"), larger) as there:
        here.start()
        there.start()
        with Source(tmp_path, "disk", "--disk", f"vhost-user:{here.socket}", cmdline=STEADY) as source:
            source.wait_lines(20)
            with Destination(tmp_path, f"unix:{tmp_path}/socket", "--disk", f"vhost-user:{there.socket}") as destination:
                destination.wait_said("waiting for a VM")
                refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
                assert destination.wait(LIMIT) == 1
            check_went_on(source)
            source.cli("pause", source.name)
            source.save(tmp_path / "snapshot")
        result = RunDirectory(tmp_path).cli("restore", tmp_path / "snapshot", "--disk", f"vhost-user:{there.socket}",
                                            "--serial", "null", check=False)
        assert result.returncode and "the transfer of its state has failed" in result.stderr
        with Restored(tmp_path, tmp_path / "snapshot") as restored:
            check_went_on(source, restored)
