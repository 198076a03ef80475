# SPDX-License-Identifier: BSD-2-Clause
"""Machines whose devices other processes work are moved, saved and restored while they run, with mini-guests: a back-end at each
end, and the same disk behind both."""

import pytest
from support.back_ends import godwit_blk, image, storage_daemon
from support.migration_proxy import Proxy
from support.vm import MIB
from test_migrate import Destination, Source, at, guest_memory, settle
from test_save_restore import ENDLESS, LIMIT, refused
from test_vhost_user import ELASTIC, back_end_of, rounds, wait_back_end

WRITING = f"rounds={ENDLESS} elastic=1 kept=40"
STEADY = f"rounds={ENDLESS} kept=40"  # what is being sent slowly is not unplugged


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


def test_postcopy_is_refused_by_the_destination(tmp_path, ends):
    with source_of(tmp_path, ends) as source, destination_of(tmp_path, ends) as destination:
        said = refused(source.migrate(f"unix:{tmp_path}/socket", "--postcopy", check=False))
        assert "a back-end would take what is not there yet for zeros" in said
        assert destination.wait(LIMIT)
        check_went_on(source)
