# SPDX-License-Identifier: BSD-2-Clause
"""Machines that are not moved: what does not fit is refused by name before anything moves, and the guest goes on."""

import json
import socket

import pytest
from support import tls
from support.migration_proxy import Proxy
from support.vm import KIB
from mini_machine import LIMIT, refused
from mini_move import COUNTING, Destination, Source, check_moved, check_stayed


def test_destination_that_lacks_a_device_is_refused(tmp_path):
    """A file that is not there, say."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 * KIB))
    with Source(tmp_path, "counting", "--disk", disk, cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket", "--disk", tmp_path / "gone") as destination:
            destination.wait_said("waiting for a VM")
            said = refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
            assert said.startswith("godwit migrate: the destination refuses: ") and f"'{tmp_path}/gone'" in said
            assert destination.wait(LIMIT) == 1
            check_stayed(source, destination)


@pytest.mark.parametrize("option,said", [
    (("--disk", "nowhere"), "--disk: the source has 0 of them, and this is one more"),
    (("--vsock", "cid=3,path=/nowhere"), "--vsock: the source has 0 of them"),
])
def test_options_that_do_not_fit_are_refused_on_both_sides(tmp_path, option, said):
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket", *option) as destination:
            destination.wait_said("waiting for a VM")
            assert said in refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
            assert destination.wait(LIMIT) == 2
            assert said in destination.stderr()
            check_stayed(source, destination)


def lacking_feature(machine):
    """A feature that no host has: the processor's leaf 1 says all there is."""
    for leaf in machine["cpuid"]:
        if leaf[0] == 1:
            leaf[5] = leaf[6] = 0xffffffff


def newer_state(machine):
    machine["states"][0]["version"] = 99


def another_device(machine):
    machine["states"].append({"name": "0000:00:1f.0/virtio-gpu", "instance": 0, "version": 1})


def missing_device(machine):
    machine["states"].pop()


def other_memory(machine):
    machine["memory"][0]["size"] += 4096


@pytest.mark.parametrize("change,said", [
    (lacking_feature, "the guest uses processor features that this host lacks: CPUID leaf 0x1.0"),
    (newer_state, "machine 0 is in version 99 there, and versions up to 1 are understood here"),
    (another_device, "the guest has 0000:00:1f.0/virtio-gpu, for which there is nothing here"),
    (missing_device, "the guest has no cpu 0, which would be here"),
    (other_memory, "memory 'memory0' at 0x0, "),
], ids=lambda value: getattr(value, "__name__", ""))
def test_machine_that_does_not_fit_the_host_is_refused_by_name(pair, tmp_path, change, said):
    def alter(name, body):
        if name != "CONFIG":
            return body
        machine = json.loads(body)
        change(machine)
        return json.dumps(machine).encode()

    source, destination = pair
    with Proxy(tmp_path / "proxy", tmp_path / "socket", alter=alter) as proxy:
        assert f"the destination refuses: {said}" in refused(source.migrate(f"unix:{tmp_path}/proxy", check=False))
        assert destination.wait(LIMIT) == 1
        assert said in destination.stderr()
        assert "ACCEPT" not in proxy.seen
    check_stayed(source, destination)


def test_nobody_there_is_told(pair, tmp_path):
    source, destination = pair
    assert "cannot connect to unix:/nowhere" in refused(source.migrate("unix:/nowhere", check=False))
    check_stayed(source, destination)


def test_host_without_the_tls_library_is_told_what_to_install(tmp_path):
    """It is loaded when it is wanted: the machine that was started before that stays."""
    tls.make(tmp_path / "tls", "there.example")
    (tmp_path / "libgnutls.so.30").touch()
    with Source(tmp_path, "counting", cmdline=COUNTING, environment={"LD_LIBRARY_PATH": str(tmp_path)}) as source:
        failed = source.migrate(f"unix:{tmp_path}/nobody", "--tls", tmp_path / "tls", "--tls-name", "there.example", check=False)
        assert failed.returncode == 1
        assert "GnuTLS is not usable" in failed.stderr and "install libgnutls.so.30" in failed.stderr
        source.wait_lines(3)


def test_second_migration_is_refused_meanwhile(pair, tmp_path):
    source, destination = pair
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/silent")
        silent.listen()
        source.migrate(f"unix:{tmp_path}/silent", "--no-wait")
        assert "a migration is under way already" in refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
        assert "is being moved" in refused(source.save(tmp_path / "file", check=False))
        source.cli("jobs", source.name, "--cancel", source.job()["id"])
        assert source.wait_job(source.job()["id"])["error"] == "the migration was cancelled"
    source.migrate(f"unix:{tmp_path}/socket")
    check_moved(source, destination)


def test_machine_that_is_still_to_come_cannot_be_resumed_or_saved(pair, tmp_path):
    source, destination = pair
    with Proxy(tmp_path / "proxy", tmp_path / "socket", lambda name, count: None) as proxy:
        source.cli("pause", source.name)
        source.migrate(f"unix:{tmp_path}/proxy", "--bandwidth", "1K", "--no-wait")
        destination.wait_state("RECEIVING")
        assert destination.qmp.command("query-status")["status"] == "inmigrate"
        assert "memory arrives; the guest runs at the source" in destination.cli("status", destination.name).stdout
        assert f"migration  to unix:{tmp_path}/proxy: " in source.cli("status", source.name).stdout
        for command, said in (("resume", "is arriving"), ("reset", "is arriving")):
            assert said in refused(destination.cli(command, destination.name, check=False))
        assert "is being moved" in refused(destination.save(tmp_path / "file", check=False))
        source.cli("jobs", source.name, "--cancel", source.job()["id"])
        assert destination.wait(LIMIT) == 1
    source.cli("resume", source.name)
    check_stayed(source, destination)


def test_memory_in_a_file_that_both_see_is_refused(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING, memory=f"64M,backing=file:{tmp_path}/ram") as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            said = refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
            assert f"{tmp_path}/ram" in said and "in use" in said
            assert destination.wait(LIMIT) == 1
            check_stayed(source, destination)


@pytest.mark.parametrize("options,said", [
    (("--memory", "64M"), "--memory comes from the source with --incoming"),
    (("--cpus", "2"), "--cpus comes from the source with --incoming"),
])
def test_what_comes_from_the_source_cannot_be_given(tmp_path, options, said):
    with Destination(tmp_path, f"unix:{tmp_path}/socket", *options) as destination:
        assert destination.wait(60) == 2
        assert said in destination.stderr()
