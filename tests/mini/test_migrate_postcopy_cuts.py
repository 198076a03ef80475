# SPDX-License-Identifier: BSD-2-Clause
"""A move that breaks while memory follows the guest, or is about to: nobody takes for its memory what is not, both sides wait, and
the guest goes on when there is a connection again."""

import pytest
from support import tls
from support.migration_proxy import Proxy
from support.vm import Failure
from mini_machine import LIMIT, refused
from mini_move import (COUNTING, PACED, SLOW, Cut, Two, ask, at, begin, check_moved, check_stayed, killed, recover, release,
                       settle)

# --- What breaks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("--channels", "1"), ("--channels", "2"), ("--channels", "8")],
                         ids=lambda options: "".join(options))
def test_broken_connection_pauses_both_and_is_recovered(tmp_path, options):
    with Two(tmp_path) as (source, destination):
        with Cut((source, destination), tmp_path, at("PAGE_REQUEST", "before", 200), options=("--postcopy", *SLOW, *options)) as cut:
            assert "still needs pages from here, but the connection is broken: 'godwit migrate --recover'" in refused(cut.result)
            here, there = source.wait_state("SERVING_CUT"), destination.wait_state("RUNNING_LACKING_CUT")
            assert here["phase"] == "postcopy-paused" and here["status"] == "running"
            assert there["lacking-pages"] > 0
            assert "the connection is broken" in destination.cli("status", destination.name).stdout
        for command in ("pause", "reset"):
            said = refused(destination.cli(command, destination.name, check=False))
            assert f"{there['lacking-pages'] * 4} KiB of the guest's memory are at the host it came from" in said
        release(source)
        recover(source, destination, tmp_path)
        check_moved(source, destination)


def test_it_is_recovered_as_often_as_it_breaks(tmp_path):
    with Two(tmp_path) as (source, destination):
        with Cut((source, destination), tmp_path, at("PAGE_REQUEST", "after", 50), options=("--postcopy", *SLOW)):
            source.wait_state("SERVING_CUT")
            destination.wait_state("RUNNING_LACKING_CUT")
        for n, step in enumerate([("RUNNING_LACKING", "before"), ("RUNNING_LACKING", "after"), ("RECEIVED", "before"),
                                  ("RECEIVED", "after"), ("PAGE_REQUEST", "before")]):
            with Proxy(tmp_path / f"again{n}", tmp_path / "socket", at(*step)):
                assert "--recover" in refused(recover(source, destination, tmp_path, uri=f"again{n}", check=False))
                source.wait_state("SERVING_CUT")
                destination.wait_state("RUNNING_LACKING_CUT")
        release(source)
        recover(source, destination, tmp_path)
        check_moved(source, destination)


def test_recovery_that_finds_nobody_is_told_and_can_be_tried_again(tmp_path):
    with Two(tmp_path) as (source, destination):
        with Cut((source, destination), tmp_path, at("PAGE_REQUEST", "before", 50), options=("--postcopy", *SLOW)):
            destination.wait_state("RUNNING_LACKING_CUT")
        assert "cannot connect to unix:/nowhere" in refused(source.cli("migrate", source.name, "unix:/nowhere", "--recover",
                                                                       check=False))
        destination.cli("migrate", destination.name, f"unix:{tmp_path}/elsewhere", "--recover")
        destination.wait_said(f"waiting for the source at unix:{tmp_path}/elsewhere")
        release(source)
        recover(source, destination, tmp_path, uri="elsewhere")
        check_moved(source, destination)


def test_encrypted_connection_is_recovered(tmp_path):
    tls.make(tmp_path / "tls", "there.example")
    certificates = ("--tls", str(tmp_path / "tls"))
    with Two(tmp_path, there=certificates) as (source, destination):
        with Proxy(tmp_path / "proxy", tmp_path / "socket", opaque=True) as proxy:
            begin(source, tmp_path, "--postcopy", *SLOW, *certificates, "--tls-name", "there.example", uri="proxy")
            destination.wait_state("RUNNING_LACKING")
            proxy.cut()
            source.wait_state("SERVING_CUT")
            destination.wait_state("RUNNING_LACKING_CUT")
        release(source)
        recover(source, destination, tmp_path)
        check_moved(source, destination)


@pytest.mark.parametrize("step", ["SWITCH_BEGIN", "PENDING", "LOADED"])
def test_guest_goes_on_here_when_the_connection_breaks_before_go(tmp_path, step):
    with Two(tmp_path) as (source, destination):
        with Cut((source, destination), tmp_path, at(step, "before"), options=("--postcopy", *SLOW)) as cut:
            refused(cut.result)
            if step == "LOADED":
                destination.wait_state("HELD_LACKING")
                assert "pages are still at the source" in refused(settle(destination, "resume-here", check=False))
                settle(destination, "give-up")
            assert destination.wait(LIMIT) == 1
            check_stayed(source, destination)


@pytest.mark.parametrize("step,there", [("GO", "HELD_LACKING"), ("DONE", "RUNNING_LACKING_CUT"),
                                        ("RUNNING_LACKING", "RUNNING_LACKING_CUT")])
def test_undecided_migration_is_recovered(tmp_path, step, there):
    with Two(tmp_path) as (source, destination):
        with Cut((source, destination), tmp_path, at(step, "before"), options=("--postcopy", *SLOW)) as cut:
            assert "--recover" in refused(cut.result)
            source.wait_state("UNDECIDED")
            destination.wait_state(there)
        release(source)
        recover(source, destination, tmp_path)
        check_moved(source, destination)


def test_undecided_migration_by_precopy_is_recovered(tmp_path):
    with Two(tmp_path, cmdline=COUNTING) as (source, destination):
        with Cut((source, destination), tmp_path, at("GO", "before")) as cut:
            refused(cut.result)
            source.wait_state("UNDECIDED")
            destination.wait_state("HELD")
        recover(source, destination, tmp_path)
        check_moved(source, destination)


def test_guest_that_was_held_goes_on_here(tmp_path):
    with Two(tmp_path) as (source, destination):
        with Cut((source, destination), tmp_path, at("GO", "before"), options=("--postcopy", *SLOW)):
            destination.wait_state("HELD_LACKING")
            settle(source, "resume-here")
            settle(destination, "give-up")
            assert destination.wait(LIMIT) == 1
            check_stayed(source, destination)


# --- Who dies ----------------------------------------------------------------------------------------


def test_source_that_dies_leaves_a_guest_that_waits_and_a_status_that_says_what_is_lost(tmp_path):
    with Two(tmp_path) as (source, destination):
        with Cut((source, destination), tmp_path, at("PAGE_REQUEST", "before", 50), broken=killed(source),
                 options=("--postcopy", *SLOW)):
            lacking = destination.wait_state("RUNNING_LACKING_CUT")["lacking-pages"]
            assert lacking > 0
            said = refused(destination.cli("pause", destination.name, check=False))
            assert f"{lacking * 4} KiB of the guest's memory are at the host it came from" in said
            destination.cli("stop", destination.name, "--force", check=False)
            assert destination.wait(LIMIT) == 1
            assert "its guest is lost" in destination.stderr()


def test_destination_that_dies_leaves_a_source_that_does_not_run_what_is_old(tmp_path):
    with Two(tmp_path) as (source, destination):
        with Cut((source, destination), tmp_path, at("PAGE_REQUEST", "before", 50), broken=killed(destination),
                 options=("--postcopy", *SLOW)):
            source.wait_state("SERVING_CUT")
            assert "what is here is old" in refused(settle(source, "resume-here", check=False))
            said = source.text()
            settle(source, "give-up")
            assert source.wait(LIMIT) == 0
            assert source.text() == said


@pytest.mark.parametrize("step", ["SWITCH_BEGIN", "PENDING", "LOADED"])
def test_guest_goes_on_here_when_the_destination_dies_before_go(tmp_path, step):
    with Two(tmp_path) as (source, destination):
        with Cut((source, destination), tmp_path, at(step, "before"), broken=killed(destination),
                 options=("--postcopy", *SLOW)) as cut:
            refused(cut.result)
            check_stayed(source, destination)


@pytest.mark.parametrize("step,there", [("LOADED", "HELD_LACKING"), ("GO", "HELD_LACKING"), ("DONE", "RUNNING_LACKING_CUT"),
                                        ("RUNNING_LACKING", "RUNNING_LACKING_CUT")])
def test_destination_does_not_run_what_lacks_the_memory_of_a_dead_source(tmp_path, step, there):
    """Or runs no further than to a page that it lacks."""
    with Two(tmp_path) as (source, destination):
        with Cut((source, destination), tmp_path, at(step, "before"), broken=killed(source), options=("--postcopy", *SLOW)):
            destination.wait_state(there)
            refused(settle(destination, "resume-here", check=False))
            if there == "HELD_LACKING":
                assert destination.text() == ""
                settle(destination, "give-up")
                assert destination.wait(LIMIT) == 1


@pytest.mark.parametrize("step,state", [("GO", "UNDECIDED"), ("DONE", "UNDECIDED"), ("RUNNING_LACKING", "UNDECIDED"),
                                        ("RUNNING", "SERVING_CUT")])
def test_source_stands_still_when_the_destination_dies_behind_go(tmp_path, step, state):
    with Two(tmp_path, cmdline=COUNTING) as (source, destination):
        with Cut((source, destination), tmp_path, at(step, "before"), broken=killed(destination), options=("--postcopy", *PACED)):
            source.wait_state(state)
            said = source.text()
            if step == "GO":  # it never ran there
                settle(source, "resume-here")
                check_stayed(source, destination)
            else:
                settle(source, "give-up")
                assert source.wait(LIMIT) == 0
                assert source.text() == said


# --- Wherever it breaks ------------------------------------------------------------------------------


def check_end(destination):
    """It ends, perhaps when it is told to: whether its source has sent GO it cannot know once it has said LOADED."""
    try:
        destination.wait_state("HELD", "HELD_LACKING")
        settle(destination, "give-up")
    except (Failure, OSError):
        pass
    assert destination.wait(LIMIT) == 1


def mend(source, destination, folder):
    """Does what the status asks for, and checks who has the guest."""
    state = None
    try:
        state = source.wait_state("STAYED", "UNDECIDED", "SERVING_CUT")["state"]
    except (Failure, OSError):
        assert source.wait(LIMIT) == 0  # it knows that the guest is there
    if state == "STAYED":
        check_end(destination)
        check_stayed(source, destination)
        return state
    if state:
        there = destination.wait_state("HELD", "HELD_LACKING", "RUNNING_LACKING_CUT", "RUNNING")["state"]
        if there == "RUNNING":
            settle(source, "give-up")
        else:
            release(source)
            recover(source, destination, folder)
    check_moved(source, destination)
    return state


# In front of or behind which message, and what the source is then; None: its guest has gone.
HYBRID = {
    ("ROUND_END", 1, "before"): "STAYED", ("ROUND_END", 1, "after"): ("STAYED", "UNDECIDED"), ("SWITCH_BEGIN", 0, "before"): "STAYED",
    ("SWITCH_BEGIN", 0, "after"): "STAYED", ("PENDING", 0, "before"): "STAYED", ("PENDING", 0, "after"): "STAYED",
    ("PAGE_REQUEST", 0, "before"): ("STAYED", "UNDECIDED", "SERVING_CUT", None),
    ("LOADED", 0, "after"): ("STAYED", "UNDECIDED", "SERVING_CUT"),
    ("GO", 0, "before"): "UNDECIDED", ("GO", 0, "after"): ("UNDECIDED", "SERVING_CUT", None), ("DONE", 0, "before"): "UNDECIDED",
    ("RUNNING_LACKING", 0, "before"): "UNDECIDED", ("RUNNING_LACKING", 0, "after"): ("SERVING_CUT", None),
    ("RUNNING", 0, "before"): "SERVING_CUT", ("RUNNING", 0, "after"): None,
}


@pytest.mark.parametrize("step,number,when", HYBRID)
def test_hybrid_that_breaks_is_mended(tmp_path, step, number, when):
    with Two(tmp_path, cmdline=f"{COUNTING} ballast=4000") as (source, destination):
        def breaks(name, count):
            if (name, count) == ("ROUND_END", 0):
                ask(source, "godwit-migrate-start-postcopy")
            if name == "RUNNING_LACKING":
                ask(source, "godwit-migrate-limit", bandwidth=0)
            return at(step, when, number)(name, count)

        expected = HYBRID[step, number, when]
        with Cut((source, destination), tmp_path, breaks, options=("--hybrid", "--max-downtime", "1", *SLOW)):
            pass
        state = mend(source, destination, tmp_path)
        assert state in expected if isinstance(expected, tuple) else state == expected


@pytest.mark.parametrize("limit", [300, 5000, 100_000, 1_000_000, 2_000_000])
def test_postcopy_whose_data_is_cut_is_mended(tmp_path, limit):
    """The connections for memory, that of the pages that somebody waits for among them."""
    with Two(tmp_path, cmdline=COUNTING) as (source, destination):
        with Cut((source, destination), tmp_path, data_limit=limit, options=("--postcopy", *PACED)) as cut:
            refused(cut.result)
        mend(source, destination, tmp_path)
