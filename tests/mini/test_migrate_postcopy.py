# SPDX-License-Identifier: BSD-2-Clause
"""Moving a machine whose guest goes on at the other side before its memory has come: whatever it touches, it finds its memory as it
was."""

import json
import os
import signal

import pytest
from support.migration_proxy import Proxy
from support.vm import KIB, MIB
from mini_machine import ENDLESS, LIMIT, Restored, refused
from mini_move import (COUNTING, SLOW, Destination, Source, Two, at, begin, check_goes_on, check_moved, check_stayed, go_there,
                       guest_memory, release, settle)

WRITING = f"rounds={ENDLESS} ballast=4000"

WAYS = {
    "unix": ("unix", ("--channels", "1")),
    "tcp-2": ("tcp", ("--channels", "2")),
    "tcp-8": ("tcp", ("--channels", "8")),
    "zstd": ("tcp", ("--channels", "2", "--compress", "zstd")),
    "tls": ("tls", ("--channels", "1")),
    "tls-zstd": ("tls", ("--channels", "8", "--compress", "zstd")),
    "exec": ("exec", ("--channels", "2")),
}


@pytest.mark.parametrize("way", WAYS)
def test_guest_goes_on_before_its_memory_has_come(tmp_path, way):
    kind, options = WAYS[way]
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        source.wait_lines(3)
        destination, report = go_there(source, tmp_path, kind, ("--postcopy", *options))
        with destination:
            assert report["status"] == "completed" and report["state"] == "GONE"
            assert report["mode"] == "postcopy" and report["round"] <= 1
            assert report["postcopy-pages"] > 512 and report["lacking-pages"] == 0
            assert (report["compressed-pages"] > 0) == ("zstd" in way)
            check_moved(source, destination)


# --- Before it is done -------------------------------------------------------------------------------


def test_status_tells_what_is_lacking(tmp_path):
    with Two(tmp_path) as (source, destination):
        began = begin(source, tmp_path, "--postcopy", *SLOW)
        assert began["phase"] == "postcopy-active" and began["postcopy-pages"] > 3000
        there = destination.wait_state("RUNNING_LACKING")
        assert there["postcopy-pages"] == began["postcopy-pages"] and there["lacking-pages"] > 0
        # The step that it was at may have been nearly done.
        destination.wait_text(lambda text: "step" in text and destination.migration()["waits"] > 1000)
        assert destination.qmp.command("query-status")["status"] == "running"
        assert source.migration()["requested-pages"] > 1000
        release(source)
        check_moved(source, destination)
        assert destination.wait_state("RUNNING")["lacking-pages"] == 0


def test_it_is_too_late_to_end_it_here(tmp_path):
    with Two(tmp_path) as (source, destination):
        begin(source, tmp_path, "--postcopy", *SLOW)
        said = refused(source.cli("jobs", source.name, "--cancel", source.job()["id"], check=False))
        assert "the guest runs at the destination: it is too late to cancel" in said
        assert "still fetches pages from here" in refused(source.cli("stop", source.name, "--force", check=False))
        assert "what is here is old" in refused(settle(source, "resume-here", check=False))
        assert "still needs pages from here" in refused(settle(source, "give-up", check=False))
        assert "the guest runs here already" in refused(settle(destination, "resume-here", check=False))
        release(source)
        check_moved(source, destination)


def test_interrupted_command_says_so_and_leaves_it_to_itself_the_second_time(tmp_path):
    with Two(tmp_path) as (source, destination):
        command = source.start_migrate(f"unix:{tmp_path}/socket", "--postcopy", *SLOW)
        destination.wait_state("RUNNING_LACKING")
        source.wait_state("SERVING")
        command.send_signal(signal.SIGINT)
        assert command.stderr.readline() == "\n"
        assert "the guest runs at the destination: it is too late to cancel" in command.stderr.readline()
        assert command.poll() is None
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=LIMIT)
        assert command.returncode == -signal.SIGINT
        release(source)
        check_moved(source, destination)


def test_events_tell(tmp_path):
    with Two(tmp_path) as (source, destination):
        here = source.qmp
        begin(source, tmp_path, "--postcopy", *SLOW)
        there = destination.qmp
        assert here.event("MIGRATION")["status"] == "postcopy-active"
        release(source)
        assert here.event("MIGRATION")["status"] == "completed"
        assert there.event("MIGRATION")["status"] in ("postcopy-active", "completed")
        check_moved(source, destination)


# --- Hybrid ------------------------------------------------------------------------------------------


def test_hybrid_that_gets_on_is_by_precopy(tmp_path):
    with Two(tmp_path, cmdline=COUNTING) as (source, destination):
        report = json.loads(source.migrate(f"unix:{tmp_path}/socket", "--hybrid", "--max-downtime", "60000", "--json").stdout)
        assert report["mode"] == "hybrid" and "postcopy-pages" not in report
        check_moved(source, destination)


def test_hybrid_that_does_not_get_on_becomes_postcopy(tmp_path):
    with Two(tmp_path, cmdline=COUNTING) as (source, destination):
        report = json.loads(source.migrate(f"unix:{tmp_path}/socket", "--hybrid", "--max-downtime", "1", "--bandwidth", "2M",
                                           "--stalled-rounds", "1", "--json").stdout)
        assert report["round"] >= 2 and report["postcopy-pages"] > 0
        check_moved(source, destination)


def test_hybrid_becomes_postcopy_when_somebody_says_so(tmp_path):
    with Two(tmp_path) as (source, destination):
        source.migrate(f"unix:{tmp_path}/socket", "--hybrid", "--max-downtime", "1", "--bandwidth", "1M", "--stalled-rounds", "1000",
                       "--no-wait")
        destination.wait_state("RECEIVING")
        source.cli("migrate", source.name, "--start-postcopy")
        destination.wait_state("RUNNING_LACKING", "RUNNING")
        release(source)
        check_moved(source, destination)
        assert destination.migration()["postcopy-pages"] > 0


def test_hybrid_whose_rest_is_allowed_when_somebody_says_so_is_by_precopy(tmp_path):
    """All that is left then is sent while the guest stands still."""
    with Two(tmp_path) as (source, destination):
        command = source.start_migrate(f"unix:{tmp_path}/socket", "--hybrid", "--max-downtime", "60000", "--bandwidth", "1M", "--json")
        destination.wait_state("RECEIVING")
        source.wait_text(lambda _: source.job()["pages"] > 0)
        source.cli("migrate", source.name, "--start-postcopy")
        release(source)
        report = json.loads(command.communicate(timeout=LIMIT)[0])
        assert report["status"] == "completed" and "postcopy-pages" not in report
        check_moved(source, destination)


def test_precopy_does_not_become_postcopy(tmp_path):
    with Two(tmp_path) as (source, destination):
        source.migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K", "--no-wait")
        destination.wait_state("RECEIVING")
        assert "by pre-copy alone" in refused(source.cli("migrate", source.name, "--start-postcopy", check=False))
        release(source)
        check_moved(source, destination)


@pytest.mark.parametrize("options,said", [
    (("--postcopy", "--hybrid"), "--postcopy and --hybrid exclude each other"),
    (("--stalled-rounds", "3"), "--stalled-rounds is for --hybrid"),
    (("--hybrid", "--stalled-rounds", "0"), "stalled-rounds: 0 is not 1 to 1000"),
    (("--hybrid", "--share-memory"), "mode: no memory is sent with share-memory"),
    (("--postcopy", "--auto-converge"), "auto-converge: in the mode 'postcopy' the guest moves at once"),
    (("--recover", "--give-up"), "--give-up and --recover exclude each other"),
    (("--recover", "--hybrid"), "--hybrid is for a migration that begins"),
])
def test_options_that_do_not_fit_are_refused(tmp_path, options, said):
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        result = source.migrate(f"unix:{tmp_path}/socket", *options, check=False)
        assert result.returncode and said in result.stderr
        assert "no migration is under way" in refused(source.migrate(f"unix:{tmp_path}/socket", "--recover", check=False))


# --- Memory ------------------------------------------------------------------------------------------


def test_memory_is_the_same_byte_by_byte(tmp_path):
    """The guest stands still on both sides, and the source still has all when the last word is lost."""
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(64 * KIB))
    with Two(tmp_path, "--disk", disk, "--elastic", "id=hot0,max=64M,size=64M,block=2M", guest="writing",
             cmdline=WRITING, lines=80) as (source, destination):
        source.cli("pause", source.name)
        with Proxy(tmp_path / "proxy", tmp_path / "socket", at("RUNNING", "before")):
            begin(source, tmp_path, "--postcopy", "--channels", "1", *SLOW, uri="proxy")
            release(source)
            source.wait_state("SERVING_CUT")
            assert source.wait_state("SERVING_CUT")["phase"] == "postcopy-paused"
            destination.wait_state("RUNNING")
            here, there = guest_memory(source), guest_memory(destination)
            assert set(here) == set(there) >= {"memory0", "hot0"}
            for name, content in here.items():
                pages = [at for at in range(0, len(content), 4096) if content[at:at + 4096] != there[name][at:at + 4096]]
                assert pages == [], f"{name}: {[hex(page) for page in pages[:20]]}"
            settle(source, "give-up")
            assert source.wait(LIMIT) == 0
        destination.cli("resume", destination.name)
        destination.wait_lines(20)
        assert "FAIL" not in destination.text()


def test_devices_wait_for_memory_and_elastic_memory_comes_and_goes(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(64 * KIB))
    with Two(tmp_path, "--disk", disk, "--elastic", "id=hot0,max=64M,size=64M,block=2M", guest="writing",
             cmdline=WRITING, lines=80) as (source, destination):
        begin(source, tmp_path, "--postcopy", "--channels", "1", *SLOW)
        destination.wait_lines(40)  # blocks are plugged and unplugged in each third round
        assert destination.migration()["waits"] > 0
        release(source)
        assert source.wait(LIMIT) == 0
        destination.wait_lines(100)
        *lines, _ = (source.text() + destination.text()).split("\n")
        said = [line for line in lines if not line.startswith("ok ")]
        assert said == [f"round {n}" for n in range(1, len(said) + 1)]


def test_elastic_memory_follows_and_what_is_unplugged_is_not_populated(tmp_path):
    with Two(tmp_path, "--elastic", "id=hot0,max=1G,size=16M,block=2M", cmdline=f"pages=256 ballast=4000 elastic=4 steps={ENDLESS}",
             lines=2) as (source, destination):
        begin(source, tmp_path, "--postcopy", *SLOW)
        assert destination.elastic("hot0")["size"] == 8 * MIB
        destination.qmp.command("godwit-resize", id="hot0", size=32 * MIB)
        release(source)
        check_moved(source, destination)
        assert destination.region_resident("hot0") <= 8 * MIB


@pytest.mark.parametrize("backing", ["memfd", "anon", "hugetlb", "prealloc"])
def test_every_backing_that_can_be_watched_follows(tmp_path, backing, backing_of):
    if backing == "hugetlb":
        backing_of(backing)
    with Source(tmp_path, "counting", cmdline=COUNTING, memory=f"64M,{backing_of(backing)}") as source:
        source.wait_lines(2)
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            report = json.loads(source.migrate(f"unix:{tmp_path}/socket", "--postcopy", "--json").stdout)
            assert report["postcopy-pages"] % (512 if backing == "hugetlb" else 1) == 0
            check_moved(source, destination)


def test_memory_that_cannot_be_watched_is_refused_by_name(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING, memory=f"64M,backing=file:{tmp_path}/ram") as source:
        source.wait_lines(1)
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            (tmp_path / "ram").rename(tmp_path / "other")  # on another host the name is another file
            said = refused(source.migrate(f"unix:{tmp_path}/socket", "--postcopy", check=False))
            assert "the destination refuses: memory 'memory0' is a file on a disk, whose pages the host cannot watch" in said
            assert destination.wait(LIMIT) == 1
            check_stayed(source, destination)


def test_it_goes_there_and_back(tmp_path):
    vms = []
    try:
        vms.append(Source(tmp_path, "counting", cmdline=COUNTING))
        for n in range(5):
            vms.append(Destination(tmp_path, f"unix:{tmp_path}/socket{n}", log=f"log{n}"))
            vms[-1].wait_said("waiting for a VM")
            vms[-2].wait_text(lambda said: said.count("\n") >= 2)
            vms[-2].cli("migrate", vms[-2].name, f"unix:{tmp_path}/socket{n}", "--postcopy", limit=LIMIT)
            assert vms[-2].wait(LIMIT) == 0
        check_goes_on(vms)
    finally:
        for vm in vms:
            vm.kill()


# --- What is done to the machine meanwhile -----------------------------------------------------------


def test_machine_is_saved_when_its_memory_has_come(tmp_path):
    with Two(tmp_path) as (source, destination):
        begin(source, tmp_path, "--postcopy", *SLOW)
        destination.wait_state("RUNNING_LACKING")
        destination.save(tmp_path / "file", "--live", "--no-wait")
        destination.wait_lines(1)
        assert destination.job()["status"] == "running"
        release(source)
        assert source.wait(LIMIT) == 0
        assert "error" not in destination.wait_job(destination.job()["id"])
        destination.kill()
        with Restored(tmp_path, tmp_path / "file") as restored:
            restored.wait_lines(3)
            assert "FAIL" not in restored.text()


def test_machine_is_reset_while_memory_is_lacking(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(64 * KIB))
    with Two(tmp_path, "--disk", disk, "--elastic", "id=hot0,max=64M,size=64M,block=2M", guest="writing",
             cmdline=WRITING, lines=80) as (source, destination):
        begin(source, tmp_path, "--postcopy", "--channels", "1", *SLOW)
        destination.wait_state("RUNNING_LACKING")
        destination.cli("reset", destination.name)
        release(source)
        destination.wait_text(lambda text: "\nround 2\n" in text)
        assert source.wait(LIMIT) == 0
        destination.wait_text(lambda text: "\nround 40\n" in text)


def test_paused_machine_stays_paused_and_its_memory_comes(tmp_path):
    with Two(tmp_path, cmdline=COUNTING) as (source, destination):
        source.cli("pause", source.name)
        source.migrate(f"unix:{tmp_path}/socket", "--postcopy")
        assert destination.qmp.command("query-status")["status"] == "paused"
        destination.cli("resume", destination.name)
        check_moved(source, destination)
