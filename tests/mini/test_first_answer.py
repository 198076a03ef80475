# SPDX-License-Identifier: BSD-2-Clause
"""The third clock of a restore: when the guest first says a text, or takes a connection."""

import json
import os
import socket

import pytest

from mini_machine import Original, Restored, RunDirectory


@pytest.fixture
def refused():
    """How many calls the guest refuses."""
    return 0


@pytest.fixture
def answering(tmp_path, refused):
    """A guest that has said `ready`, and takes calls."""
    with Original(tmp_path, "answering", "--vsock", f"cid=3,path={tmp_path}/a", cmdline=f"refuse={refused}") as vm:
        vm.wait_lines(1)
        vm.save(tmp_path / "answering")
        assert vm.text() == "ready\n"
    return tmp_path / "answering"


@pytest.fixture
def snap(tmp_path):
    with Original(tmp_path, "counting", cmdline="pages=64 steps=100000") as vm:
        vm.wait_lines(2)
        vm.save(tmp_path / "snap")
    return tmp_path / "snap"


def report_of(vm, answer):
    """The report once the guest has answered; all ways to it agree."""
    event = vm.qmp.event("RESTORE_ANSWERED", limit=240)
    report = vm.qmp.command("godwit-restore")
    assert report["answer"] == event["answer"] == answer
    assert report["answer-ns"] == event["answer-ns"] > 0
    status = json.loads(vm.cli("status", vm.name, "--json").stdout)
    assert status["restore"]["answer-ns"] == report["answer-ns"]
    line, = [line for line in vm.cli("status", vm.name).stdout.splitlines() if line.startswith("restored ")]
    assert f", {answer} after {report['answer-ns'] / 1e6:.1f} ms" in line
    assert f"first instruction after {report['started-ns'] / 1e6:.1f} ms" in line
    return report


@pytest.mark.parametrize("options", [(), ("--lazy",), ("--clone",)])
def test_text_on_the_serial_port(snap, tmp_path, options):
    with Restored(tmp_path, snap, "--paused", "--first-answer", "console:step", *options) as vm:
        report = vm.wait_resident()
        assert report["answer"] == "console:step" and "answer-ns" not in report
        vm.cli("resume", vm.name)
        assert report_of(vm, "console:step")["answer-ns"] > report["started-ns"]
        vm.wait_lines(2)


def test_text_goes_by_though_nobody_takes_it(snap, tmp_path):
    with Restored(tmp_path, snap, "--paused", "--first-answer", "console:step", "--serial", "null") as vm:
        vm.wait_resident()
        vm.cli("resume", vm.name)
        report_of(vm, "console:step")


def test_text_that_was_said_before_does_not_count(answering, tmp_path):
    with Restored(tmp_path, answering, "--first-answer", "console:ready") as vm:
        vm.wait_resident()
        with socket.socket(socket.AF_UNIX) as call:
            call.connect(f"{tmp_path}/a")
            call.sendall(b"CONNECT 1024\n")
            vm.wait_text(lambda text: "call 1024\n" in text)
        report = vm.qmp.command("godwit-restore")
        assert report["answer"] == "console:ready" and "answer-ns" not in report
        assert "ready" not in vm.cli("status", vm.name).stdout


def test_nobody_asked(snap, tmp_path):
    with Restored(tmp_path, snap) as vm:
        vm.wait_lines(2)
        report = vm.qmp.command("godwit-restore")
        assert "answer" not in report and "answer-ns" not in report
        line, = [line for line in vm.cli("status", vm.name).stdout.splitlines() if line.startswith("restored ")]
        assert line == (f"restored   first instruction after {report['started-ns'] / 1e6:.1f} ms, everything there after "
                        f"{report['resident-ns'] / 1e6:.1f} ms")


@pytest.mark.parametrize("refused", [0, 3])
def test_connection_to_a_port(answering, tmp_path, refused):
    with Restored(tmp_path, answering, "--first-answer", "vsock:1024", "--paused", "--vsock",
                  f"cid=4,path={tmp_path}/b") as vm:
        vm.wait_resident()
        vm.cli("resume", vm.name)
        report_of(vm, "vsock:1024")
        vm.wait_text(lambda text: "end" in text)  # and left in peace
        assert vm.text() == "call 1024\n" * (refused + 1) + "end 1024\n"


@pytest.mark.parametrize("answer, message", [
    ("console:", "--first-answer: 'console:': the text must have 1 to 255 bytes"),
    (f"console:{'x' * 256}", "the text must have 1 to 255 bytes"),
    ("console:two\nlines", "--first-answer: the text must be on one line, and byte 4 of it is 0xa"),
    (os.fsdecode(b"console:\xff"), "--first-answer: the text must be UTF-8"),
    ("vsock:4294967296", "4294967296"),
    ("vsock:ssh", "ssh"),
    ("ssh", "--first-answer: 'ssh' is not console:TEXT or vsock:PORT"),
    ("vsock:22", "first answer: 'vsock:22': the machine has no --vsock"),
])
def test_what_cannot_be_asked_is_refused(snap, tmp_path, answer, message):
    result = RunDirectory(tmp_path).cli("restore", snap, "--first-answer", answer, check=False)
    assert result.returncode == 2 and message in result.stderr
