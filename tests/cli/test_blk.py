# SPDX-License-Identifier: BSD-2-Clause
"""The program godwit-blk: its command line, and how it begins and ends. What it does for machines is tested by
tests/unit/test_blk_back_end.c and test_blk_qemu.py."""

import re
import signal
import socket
import subprocess
import time

import pytest

from support.vm import BUILD, REPOSITORY

PROGRAM = BUILD / "src/blk_back_end/godwit-blk"


def run(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, check=False)


def refused(*arguments, status=2):
    result = run(*arguments)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("godwit-blk: ") and result.stderr.count("\n") == 1
    return result.stderr.strip().removeprefix("godwit-blk: ")


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def serving(tmp_path, disk):
    """Starts it at a socket, which is there; the process."""
    started = []

    def start(*arguments):
        path = tmp_path / "socket"
        process = subprocess.Popen([PROGRAM, "--file", disk, "--socket", path, *arguments], stderr=subprocess.PIPE)
        started.append(process)
        deadline = time.monotonic() + 60
        while not path.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        return process, path

    yield start
    for process in started:
        process.kill()
        process.communicate()


def options():
    """The options that the help lists, with whether they take a value."""
    found = re.findall(r"^  --([a-z-]+)( \S+)?", run("--help").stdout, re.MULTILINE)
    return {name: bool(value) for name, value in found}


def test_help_and_version():
    assert run("--help").stdout.startswith("usage: godwit-blk --file PATH")
    assert run("-h").stdout == run("--file", "--help").stdout == run("--help").stdout
    assert all(len(line) <= 80 for line in run("--help").stdout.splitlines())
    assert re.fullmatch(r"godwit-blk \d+\.\d+\.\d+\n", run("--version").stdout)


def test_page_has_the_options_of_the_help():
    page = (REPOSITORY / "docs/man/godwit-blk.1").read_text()
    described = re.findall(r"^\.It Fl -(\S+)( .*)?$", page, re.MULTILINE)
    assert {name: bool(value) for name, value in described} == options()
    synopsis = page.split(".Sh SYNOPSIS")[1].split(".Sh ")[0]
    assert set(re.findall(r"Fl -(\S+)", synopsis)) == set(options()) - {"help", "version"}


@pytest.mark.parametrize("arguments, said", [
    ((), "--file is missing: the disk"),
    (("--file", "x"), "one of --socket, --connect and --fd is needed"),
    (("--file", "x", "--socket", "s", "--fd", "3"), "only one of --socket, --connect and --fd is needed"),
    (("--fiel", "x"), "unknown option '--fiel': 'godwit-blk --help' lists them"),
    (("x",), "unexpected argument 'x'"),
    (("--file",), "--file needs a value"),
    (("--file=x", "--file", "y"), "--file is given twice"),
    (("--read-only=yes",), "--read-only takes no value"),
    (("--queues", "0"), "--queues: '0' is no number from 1 to 64"),
    (("--queues", "65"), "--queues: '65' is no number from 1 to 64"),
    (("--queues", "2x"), "--queues: '2x' is no number from 1 to 64"),
    (("--slots", "32765"), "--slots: '32765' is no number from 1 to 32764"),
    (("--fd", "-1"), "--fd: '-1' is no number from 0 to 2147483647"),
    (("--cache", "none"), "--cache: 'none' is neither 'writeback' nor 'writethrough'"),
    (("--discard", "maybe"), "--discard: 'maybe' is neither 'on' nor 'off'"),
    (("--serial", "x" * 21), f"--serial: '{'x' * 21}' has more than 20 characters"),
])
def test_command_line_that_is_wrong(arguments, said):
    assert refused(*arguments) == said


def test_disk_that_cannot_be_used(tmp_path, disk):
    at = ("--socket", tmp_path / "socket")
    assert refused("--file", tmp_path / "none", *at, status=1) == f"disk '{tmp_path}/none': No such file or directory"
    assert "neither a regular file nor a block device" in refused("--file", tmp_path, *at, status=1)
    (tmp_path / "empty").touch()
    assert refused("--file", tmp_path / "empty", *at, status=1) == f"disk '{tmp_path}/empty' is empty"
    assert not (tmp_path / "socket").exists()
    assert "discard=on" in refused("--file", disk, *at, "--read-only", "--discard", "on", status=1)


def test_descriptor_that_is_no_socket(disk):
    with disk.open("rb") as file:
        result = subprocess.run([PROGRAM, "--file", disk, "--fd", str(file.fileno())], pass_fds=[file.fileno()],
                                capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("godwit-blk: descriptor ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_and_the_socket_goes(serving, number):
    process, path = serving()
    process.send_signal(number)
    assert process.wait(60) == 0
    assert not path.exists()


def test_socket_that_is_listened_on_is_not_taken(serving, disk):
    _, path = serving()
    said = refused("--file", disk, "--socket", path, status=1)
    assert str(path) in said
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))  # the first is there still


def test_front_end_that_breaks_the_protocol_is_hung_up_on(serving):
    process, path = serving()
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(path))
            client.sendall(b"\xff" * 12)
            assert client.recv(1) == b""
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0
    assert said.count("godwit[blk] error: ") == 2
