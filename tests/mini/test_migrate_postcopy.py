# SPDX-License-Identifier: BSD-2-Clause
"""Moving a machine whose guest goes on at the other side before its memory has come: whatever it touches, and whatever breaks, it
finds its memory as it was, and nobody takes for it what is not."""

import json
import os
import time

import pytest
from support import tls
from support.migration_proxy import Proxy
from support.vm import KIB, MIB, Failure
from test_migrate import (LIMIT, Cut, Destination, Restored, Source, at, check_goes_on, check_moved, check_stayed,  # noqa: F401
                          go_there, guest_memory, killed, settle)
from mini_machine import ENDLESS, refused

COUNTING = f"pages=512 steps={ENDLESS}"
LARGE = f"pages=3000 ballast=4000 steps={ENDLESS}"  # the one is touched again and again, the other never
WRITING = f"rounds={ENDLESS} ballast=4000"
SLOW = ("--bandwidth", "1K")  # what nobody touches does not come for now

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


class Two:
    """A counting guest, and a place to go to."""

    def __init__(self, folder, *arguments, guest="counting", cmdline=LARGE, there=(), lines=1, **options):
        self.folder, self.cmdline, self.guest = folder, cmdline, guest
        self.arguments, self.options, self.there, self.lines = arguments, options, there, lines

    def __enter__(self):
        self.source = Source(self.folder, self.guest, *self.arguments, cmdline=self.cmdline, **self.options).__enter__()
        self.destination = Destination(self.folder, f"unix:{self.folder}/socket", *self.there).__enter__()
        self.destination.wait_said("waiting for a VM")
        self.source.wait_lines(self.lines)
        return self.source, self.destination

    def __exit__(self, *exception):
        for vm in (self.source, self.destination):
            vm.__exit__(*exception)


def begin(source, folder, *options, uri="socket"):
    source.migrate(f"unix:{folder}/{uri}", "--no-wait", *options)
    return source.wait_state("SERVING")


def release(source):
    """The rest may come, if it has not."""
    try:
        source.qmp.command("godwit-migrate-limit", bandwidth=0)
    except (Failure, OSError):
        assert source.wait(LIMIT) == 0


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


# --- What breaks -------------------------------------------------------------------------------------


def recover(source, destination, folder, *options, uri="socket", check=True):
    end = time.monotonic() + LIMIT
    while "listening" not in destination.migration():
        assert time.monotonic() < end, destination.migration()
        time.sleep(0.02)
    return source.cli("migrate", source.name, f"unix:{folder}/{uri}", "--recover", *options, check=check, limit=LIMIT)


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
