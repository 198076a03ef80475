# SPDX-License-Identifier: BSD-2-Clause
"""A move that breaks at each step of the protocol, by pre-copy: exactly one process runs the guest afterwards, or an operator
is told what to do."""

import pytest
from support.vm import KIB
from mini_machine import LIMIT, refused
from mini_move import (COUNTING, Cut, Destination, Source, at, check_goes_on, check_moved, check_stayed, killed, settle)

# --- What breaks -------------------------------------------------------------------------------------

# In front of or behind which message, the how-manieth of its name, the link is cut while nobody but the source can have the
# guest.
BEFORE_GO = [
    ("CONFIG", 0, "before"), ("CONFIG", 0, "after"), ("ACCEPT", 0, "before"), ("STATE_CREDIT", 0, "before"),
    ("STATE_CREDIT", 0, "after"), ("STATE_CREDIT", 5, "before"), ("ROUND_END", 0, "before"), ("ROUND_END", 0, "after"),
    ("ROUND_END", 1, "before"), ("ROUND_END", 2, "before"), ("SWITCH_BEGIN", 0, "before"), ("LOADED", 0, "before"),
]


@pytest.mark.parametrize("step,number,when", BEFORE_GO)
def test_source_goes_on_when_the_link_is_cut_before_go(pair, tmp_path, step, number, when):
    with Cut(pair, tmp_path, at(step, when, number)) as cut:
        refused(cut.result)
        if step == "LOADED":  # a whole copy is never thrown away unasked
            cut.destination.wait_state("HELD")
            settle(cut.destination, "give-up")
        if step != "CONFIG" or when != "before":
            assert cut.destination.wait(LIMIT) == 1
        check_stayed(cut.source, cut.destination)


@pytest.mark.parametrize("limit", [100, 300, 5000, 100_000, 1_000_000])
def test_source_goes_on_when_data_is_cut(pair, tmp_path, limit):
    with Cut(pair, tmp_path, data_limit=limit) as cut:
        refused(cut.result)
        assert cut.destination.wait(LIMIT) == 1
        check_stayed(cut.source, cut.destination)


def test_lost_go_leaves_both_waiting_and_the_guest_goes_on_here(pair, tmp_path):
    with Cut(pair, tmp_path, at("GO", "before")) as cut:
        assert "--resume-here" in refused(cut.result)
        assert cut.source.wait_state("UNDECIDED")["status"] == "running"
        assert cut.source.qmp.command("query-status")["status"] == "paused"
        cut.destination.wait_state("HELD")
        assert "is being moved" in refused(cut.source.cli("resume", cut.source.name, check=False))
        refused(cut.source.cli("jobs", cut.source.name, "--cancel", cut.source.job()["id"], check=False))
        settle(cut.source, "resume-here")
        settle(cut.destination, "give-up")
        assert cut.destination.wait(LIMIT) == 1
        check_stayed(cut.source, cut.destination)


def test_lost_go_leaves_both_waiting_and_the_guest_goes_on_there(pair, tmp_path):
    with Cut(pair, tmp_path, at("GO", "before")) as cut:
        cut.destination.wait_state("HELD")
        settle(cut.destination, "resume-here")
        settle(cut.source, "give-up")
        check_moved(cut.source, cut.destination)


@pytest.mark.parametrize("step", ["DONE", "RUNNING"])
def test_lost_answer_is_settled_by_looking(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before")) as cut:
        refused(cut.result)
        cut.source.wait_state("UNDECIDED")
        cut.destination.wait_state("RUNNING")
        refused(settle(cut.destination, "give-up", check=False))
        settle(cut.source, "give-up")
        check_moved(cut.source, cut.destination)


def test_link_that_is_cut_behind_the_last_word_is_not_missed(pair, tmp_path):
    with Cut(pair, tmp_path, at("RUNNING", "after")) as cut:
        assert cut.result.returncode == 0, cut.result.stderr
        check_moved(cut.source, cut.destination)


def test_both_cannot_be_told_to_run_a_guest_with_a_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 * KIB))
    with Source(tmp_path, "counting", "--disk", disk, cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            with Cut((source, destination), tmp_path, at("GO", "before")) as cut:
                destination.wait_state("HELD")
                settle(destination, "resume-here")
                destination.wait_state("RUNNING")
                assert "is in use by another process" in refused(settle(source, "resume-here", check=False))
                settle(source, "give-up")
                check_moved(source, destination)


# --- Who dies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["ACCEPT", "ROUND_END", "SWITCH_BEGIN", "LOADED"])
def test_guest_goes_on_when_the_destination_dies_before_go(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before"), broken=killed(pair[1])) as cut:
        refused(cut.result)
        check_stayed(cut.source, cut.destination)


def test_destination_that_dies_before_go_leaves_an_undecided_source_that_can_go_on(pair, tmp_path):
    with Cut(pair, tmp_path, at("GO", "before"), broken=killed(pair[1])) as cut:
        cut.source.wait_state("UNDECIDED")
        settle(cut.source, "resume-here")
        check_stayed(cut.source, cut.destination)


@pytest.mark.parametrize("step", ["ACCEPT", "ROUND_END", "SWITCH_BEGIN"])
def test_destination_ends_when_the_source_dies_before_all_is_there(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before"), broken=killed(pair[0])) as cut:
        assert cut.destination.wait(LIMIT) == 1
        assert cut.destination.text() == ""


@pytest.mark.parametrize("step", ["LOADED", "GO"])
def test_whole_copy_goes_on_when_the_source_has_died(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before"), broken=killed(pair[0])) as cut:
        cut.destination.wait_state("HELD")
        settle(cut.destination, "resume-here")
        check_goes_on([cut.source, cut.destination])


@pytest.mark.parametrize("step,when", [("DONE", "before"), ("RUNNING", "before"), ("RUNNING", "after")])
def test_guest_goes_on_when_the_source_dies_behind_go(pair, tmp_path, step, when):
    with Cut(pair, tmp_path, at(step, when), broken=killed(pair[0])) as cut:
        check_goes_on([cut.source, cut.destination])
