# SPDX-License-Identifier: BSD-2-Clause
"""Moving a machine to another process, with mini-guests: whatever the way, exactly one process runs the guest afterwards, and
it goes on exactly where it was."""

import errno
import json
import os
import signal
import socket
import subprocess

import pytest
from support import cutter as cutters
from support.migration_proxy import Proxy
from support.vm import GODWIT, KIB, MIB, Machine
from mini_machine import ENDLESS, LIMIT, Original, Restored, counted, follows, goes_on, refused
from mini_move import (COUNTING, Destination, Source, at, check_goes_on, check_moved, check_stayed, go_there, guest_memory,
                       settle)

# --- Ways there --------------------------------------------------------------------------------------

WAYS = {
    "unix": ("unix", ("--channels", "1")),
    "unix-4": ("unix", ("--channels", "4")),
    "tcp": ("tcp", ()),
    "zstd": ("tcp", ("--compress", "zstd", "--channels", "4")),
    "tls": ("tls", ("--channels", "1")),
    "tls-zstd": ("tls", ("--channels", "4", "--compress", "zstd")),
    "fd": ("fd", ("--channels", "2")),
    "exec": ("exec", ("--channels", "2")),
}


@pytest.mark.parametrize("way", WAYS)
def test_running_guest_goes_on_where_it_was(tmp_path, way):
    kind, options = WAYS[way]
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        source.wait_lines(3)
        destination, report = go_there(source, tmp_path, kind, options)
        with destination:
            assert report["status"] == "completed"
            assert report["state"] == "GONE"
            check_moved(source, destination)
            downtime = report["downtime"]
            parts = [downtime[f"{part}-ns"] for part in ("stop", "states", "pages", "load", "confirm")]
            assert all(part > 0 for part in parts)
            assert sum(parts) <= downtime["total-ns"]
            assert 0 < downtime["resume-ns"] <= downtime["confirm-ns"]
            assert (report["compressed-pages"] > 0) == ("zstd" in way)


def test_source_ends_with_a_clear_status(pair, tmp_path):
    source, destination = pair
    qmp = source.qmp
    source.migrate(f"unix:{tmp_path}/socket", "--no-wait")
    assert qmp.event("MIGRATION")["status"] == "completed"
    assert qmp.event("SHUTDOWN") == {"guest": False, "reason": "migrated"}
    assert destination.qmp.command("query-status")["status"] in ("running", "inmigrate")
    check_moved(source, destination)


def test_command_tells_what_it_did(pair, tmp_path):
    source, destination = pair
    said = source.migrate(f"unix:{tmp_path}/socket").stdout
    assert said.startswith(f"migrated to unix:{tmp_path}/socket: ") and "the guest stood still for" in said
    check_moved(source, destination)


def test_paused_machine_stays_paused(pair, tmp_path):
    source, destination = pair
    source.cli("pause", source.name)
    source.migrate(f"unix:{tmp_path}/socket")
    assert destination.qmp.command("query-status") == {"status": "paused", "running": False}
    destination.cli("resume", destination.name)
    check_moved(source, destination)


def test_destination_may_be_told_to_stay_paused(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket", "--paused") as destination:
            source.wait_lines(2)
            source.migrate(f"unix:{tmp_path}/socket")
            assert destination.qmp.command("query-status")["status"] == "paused"
            destination.cli("resume", destination.name)
            check_moved(source, destination)


def test_machine_that_is_paused_while_it_arrives_stays_paused(pair, tmp_path):
    source, destination = pair
    source.migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K", "--no-wait")
    destination.wait_state("RECEIVING")
    destination.cli("pause", destination.name)
    source.qmp.command("godwit-migrate-limit", bandwidth=0)
    assert source.wait(LIMIT) == 0
    assert destination.qmp.command("query-status")["status"] == "paused"
    destination.cli("resume", destination.name)
    check_moved(source, destination)


@pytest.mark.parametrize("channels,compress", [(1, "none"), (4, "zstd")])
def test_memory_is_the_same_byte_by_byte(tmp_path, channels, compress):
    """The guest and devices write all the time, elastic memory comes and goes. The link is cut at the last word, so that both
    stand still, with all there is."""
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(64 * KIB))
    with Source(tmp_path, "writing", "--disk", disk, "--elastic", "id=hot0,max=64M,size=64M,block=2M",
                cmdline=f"rounds={ENDLESS}") as source:
        source.wait_text(lambda text: "round 2" in text)
        with Destination(tmp_path, f"unix:{tmp_path}/socket", "--paused") as destination:
            destination.wait_said("waiting for a VM")
            with Proxy(tmp_path / "proxy", tmp_path / "socket", at("RUNNING", "before")):
                refused(source.migrate(f"unix:{tmp_path}/proxy", "--channels", channels, "--compress", compress,
                                       "--max-downtime", "20", check=False))
                destination.wait_state("RUNNING")
                here, there = guest_memory(source), guest_memory(destination)
                assert set(here) == set(there) >= {"memory0", "hot0"}
                for name, content in here.items():
                    pages = [at for at in range(0, len(content), 4096) if content[at:at + 4096] != there[name][at:at + 4096]]
                    assert pages == [], f"{name}: {[hex(page) for page in pages[:20]]}"
                settle(source, "give-up")
                destination.cli("resume", destination.name)
                assert source.wait(LIMIT) == 0
                destination.wait_lines(100)
                *lines, _ = (source.text() + destination.text()).split("\n")
                said = [line for line in lines if not line.startswith("ok ")]
                assert said == [f"round {n}" for n in range(1, len(said) + 1)]


def test_it_goes_there_and_back(tmp_path):
    vms = []
    try:
        vms.append(Source(tmp_path, "counting", cmdline=COUNTING))
        for n in range(5):
            vms.append(Destination(tmp_path, f"unix:{tmp_path}/socket{n}", log=f"log{n}"))
            vms[-1].wait_said("waiting for a VM")
            vms[-2].wait_text(lambda said: said.count("\n") >= 2)
            vms[-2].cli("migrate", vms[-2].name, f"unix:{tmp_path}/socket{n}")
            assert vms[-2].wait(LIMIT) == 0
        check_goes_on(vms)
    finally:
        for vm in vms:
            vm.kill()


def test_what_has_come_is_saved_while_it_runs_and_goes_on_by_postcopy(tmp_path):
    """Full memory arrives in huge pages where the host has them: those are watched page by page all the same."""
    vms = [Source(tmp_path, "dirtying", memory="32M", cmdline=f"memory=16 rounds={ENDLESS} pace=100000")]
    try:
        vms[0].wait_lines(2)
        for n, mode in enumerate([(), ("--postcopy",)]):
            vms.append(Destination(tmp_path, f"unix:{tmp_path}/socket{n}", log=f"log{n}"))
            vms[-1].wait_said("waiting for a VM")
            vms[-2].cli("migrate", vms[-2].name, f"unix:{tmp_path}/socket{n}", *mode, limit=LIMIT)
            assert vms[-2].wait(LIMIT) == 0
            vms[-1].wait_lines(2)
            vms[-1].wait_state("RUNNING")
            vms[-1].save(tmp_path / f"file{n}", "--live")
            with Restored(tmp_path, tmp_path / f"file{n}", log=f"restored{n}") as restored:
                goes_on(restored)
        goes_on(vms[-1])
        assert follows("".join(vm.text() for vm in vms))
    finally:
        for vm in vms:
            vm.kill()


# --- Elastic memory ----------------------------------------------------------------------------------


def test_elastic_memory_moves_and_what_is_unplugged_is_not_populated(tmp_path):
    with Source(tmp_path, "counting", "--elastic", "id=hot0,max=1G,size=16M,block=2M",
                cmdline=f"pages=256 elastic=4 steps={ENDLESS}") as source:
        source.wait_lines(2)
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            report = json.loads(source.migrate(f"unix:{tmp_path}/socket", "--json").stdout)
            assert destination.region_resident("hot0") <= 8 * MIB
            assert destination.elastic("hot0")["size"] == 8 * MIB
            assert report["pages"] + report["zero-pages"] < 200 * MIB // 4096
            check_moved(source, destination)


@pytest.mark.parametrize("backing", ["memfd", "anon", "hugetlb", "prealloc"])
def test_every_backing_moves(tmp_path, backing, backing_of):
    if backing == "hugetlb":
        backing_of(backing)
    with Source(tmp_path, "counting", cmdline=COUNTING, memory=f"64M,{backing_of(backing)}") as source:
        source.wait_lines(2)
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            source.migrate(f"unix:{tmp_path}/socket")
            check_moved(source, destination)


@pytest.mark.parametrize("mode", [(), ("--postcopy",)], ids=["precopy", "postcopy"])
@pytest.mark.parametrize("way", ["--lazy", "--clone"])
def test_restored_machine_moves(tmp_path, way, mode):
    with Original(tmp_path, "counting", cmdline=COUNTING) as original:
        original.wait_lines(2).cli("pause", original.name)
        original.save(tmp_path / "file")
        text = original.text()
    with Restored(tmp_path, tmp_path / "file", way) as source, Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
        destination.wait_said("waiting for a VM")
        source.qmp.command("query-status")
        source.cli("migrate", source.name, f"unix:{tmp_path}/socket", *mode, limit=LIMIT)
        assert source.wait(LIMIT) == 0
        check_goes_on([source, destination], text)


# --- The disks ---------------------------------------------------------------------------------------


def test_disk_is_locked_by_one_of_them_at_any_time(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 * KIB))
    with Source(tmp_path, "counting", "--disk", disk, "--paused", cmdline="pages=64 steps=20") as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            source.migrate(f"unix:{tmp_path}/socket")
            source.wait(LIMIT)
            second = source.cli("run", "--kernel", source.command_line[source.command_line.index("--kernel") + 1],
                                "--memory", "64M", "--disk", disk, "--name", "second", check=False)
            assert "is in use by another process" in refused(second)
            destination.cli("resume", destination.name)
            destination.finish()
            assert destination.text() == counted(20)


def test_guest_stays_when_its_disk_cannot_be_made_durable(tmp_path):
    """What it wrote must be on the storage before another host reads there."""
    disk, cutter = tmp_path / "disk", cutters.Cutter(tmp_path)
    disk.write_bytes(bytes(64 * KIB))
    with Source(tmp_path, "counting", "--disk", disk, cmdline=COUNTING, wrapper=cutter.wrapper) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            cutter.arm(cutters.FAIL, ("fdatasync", 1), errno.EIO)
            said = refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
            assert f"disk '{disk}': what the guest wrote cannot be made durable: Input/output error" in said
            assert destination.wait(LIMIT) == 1
            check_stayed(source, destination)


def test_guest_stays_when_its_disk_cannot_be_taken_over(tmp_path):
    """Somebody else has locked the disk that the destination was given."""
    disk, other = tmp_path / "disk", tmp_path / "other"
    disk.write_bytes(bytes(64 * KIB))
    other.write_bytes(bytes(64 * KIB))
    with Source(tmp_path, "counting", "--disk", disk, cmdline=COUNTING) as source:
        with Machine("--kernel", source.command_line[source.command_line.index("--kernel") + 1], "--memory", "64M", "--paused",
                     "--disk", other, console=False) as holder:
            holder.qmp.command("query-status")
            with Destination(tmp_path, f"unix:{tmp_path}/socket", "--disk", other) as destination:
                destination.wait_said("waiting for a VM")
                said = refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
                assert f"the destination: disk '{other}' is in use by another process" in said
                assert destination.wait(LIMIT) == 1
                check_stayed(source, destination)


# --- Who changes his mind ----------------------------------------------------------------------------


def test_cancelled_migration_leaves_the_guest_and_a_later_one_succeeds(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/first", log="first") as first:
            first.wait_said("waiting for a VM")
            source.migrate(f"unix:{tmp_path}/first", "--bandwidth", "1K", "--no-wait")
            first.wait_state("RECEIVING")
            source.cli("jobs", source.name, "--cancel", source.job()["id"])
            assert source.wait_job(source.job()["id"])["error"] == "the migration was cancelled"
            assert first.wait(LIMIT) == 1
            assert "the source: the migration was cancelled" in first.stderr()
            assert first.text() == ""
        with Destination(tmp_path, f"unix:{tmp_path}/second") as second:
            second.wait_said("waiting for a VM")
            source.migrate(f"unix:{tmp_path}/second")
            check_moved(source, second)


def test_interrupted_command_cancels_the_migration(pair, tmp_path):
    source, destination = pair
    command = source.start_migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K")
    destination.wait_state("RECEIVING")
    command.send_signal(signal.SIGINT)
    assert command.communicate(timeout=LIMIT)[1] == "godwit migrate: the migration was cancelled\n"
    assert command.returncode == 1
    assert destination.wait(LIMIT) == 1
    check_stayed(source, destination)


def test_command_in_the_background_of_a_shell_is_not_meant(pair, tmp_path):
    source, destination = pair
    command = source.start_migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K",
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    destination.wait_state("RECEIVING")
    command.send_signal(signal.SIGINT)
    goes_on(source, 10)
    source.qmp.command("godwit-migrate-limit", bandwidth=0)
    assert command.wait(LIMIT) == 0
    check_moved(source, destination)


@pytest.mark.parametrize("end", ["cancelled", "broken"])
def test_descriptors_of_a_migration_that_came_to_nothing_are_closed(tmp_path, end):
    def open_files():
        return len(os.listdir(f"/proc/{source.process.pid}/fd"))

    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        source.wait_lines(1).qmp.command("query-status")  # a connection that stays
        before = open_files()
        pairs = [socket.socketpair() for _ in range(5)]
        mine = [end.fileno() for end, _ in pairs]
        subprocess.run([GODWIT, "migrate", source.name, "fd:" + "+".join(map(str, mine)), "--channels", "4", "--no-wait"],
                       env=source.environment, pass_fds=mine, timeout=LIMIT, check=True)
        for here, _ in pairs:
            here.close()
        pairs[0][1].settimeout(LIMIT)
        assert pairs[0][1].recv(8) == b"GODWMIGR"  # only the first connection is made yet
        if end == "cancelled":
            source.cli("jobs", source.name, "--cancel", source.job()["id"])
        else:
            pairs[0][1].close()
        assert source.wait_job(source.job()["id"])["error"]
        for _, there in pairs[1:]:
            there.settimeout(LIMIT)
            assert there.recv(1) == b""
        source.wait_text(lambda text: open_files() <= before)
        check_goes_on([source])


def test_limits_can_be_changed_meanwhile(pair, tmp_path):
    source, destination = pair
    source.migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K", "--no-wait")
    destination.wait_state("RECEIVING")
    source.qmp.command("godwit-migrate-limit", bandwidth=0, max_downtime=500)
    check_moved(source, destination)


def test_machine_that_moves_can_be_paused_resumed_resized_and_reset(tmp_path):
    with Source(tmp_path, "moving", "--elastic", "id=hot0,max=64M,block=2M", reboot=True, cmdline=f"rounds={ENDLESS}") as source:
        source.wait_lines(2)
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            source.migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K", "--no-wait")
            destination.wait_state("RECEIVING")
            source.cli("pause", source.name)
            assert source.qmp.command("query-status")["status"] == "paused"
            source.cli("resume", source.name)
            goes_on(source)
            source.cli("resize", source.name, "hot0", "32M")
            before = source.text().count("round 1\n")
            source.cli("reset", source.name)
            source.wait_text(lambda text: text.count("round 1\n") > before and not text.endswith("round 1\n"))
            source.qmp.command("godwit-migrate-limit", bandwidth=0)
            assert source.wait(LIMIT) == 0
            destination.wait_lines(3)
            said = (source.text() + destination.text()).rpartition("round 1\n")[2]
            assert follows("round 1\n" + said)
            assert destination.elastic("hot0")["requested-size"] == 32 * MIB


def test_destination_can_be_told_that_it_is_not_wanted(pair, tmp_path):
    source, destination = pair
    source.migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K", "--no-wait")
    destination.wait_state("RECEIVING")
    settle(destination, "give-up")
    assert destination.wait(LIMIT) == 1
    assert "an operator has given it up" in source.wait_job(source.job()["id"])["error"]
    check_stayed(source, destination)


def test_waiting_destination_ends_with_a_signal(tmp_path):
    with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
        destination.wait_said("waiting for a VM")
        destination.process.send_signal(signal.SIGTERM)
        assert destination.wait(60) == 1
