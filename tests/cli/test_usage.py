# SPDX-License-Identifier: BSD-2-Clause
"""What the program says about a command line that is wrong: one line, what would do, and exit status 2."""

import os
import subprocess

import pytest

from support.program import commands, options_of
from support.vm import GODWIT


def test_no_subcommand(refused):
    assert refused() == "godwit: a subcommand is missing: 'godwit help' lists them"


def test_unknown_subcommand_suggests_the_nearest(refused):
    assert refused("resise") == "godwit: unknown subcommand 'resise': did you mean 'resize'?"
    assert refused("teleport") == "godwit: unknown subcommand 'teleport': 'godwit help' lists them"


@pytest.mark.parametrize("command", commands())
def test_unknown_option_is_refused_by_every_command(refused, command):
    line = refused(*command.split(), "--no-such-option")
    assert line == (f"godwit {command}: unknown option '--no-such-option': "
                    f"'godwit help {command}' lists the options")


@pytest.mark.parametrize("command", [name for name in commands() if options_of(name)])
def test_misspelt_option_suggests_the_right_one(refused, command):
    option = max(options_of(command), key=len)
    line = refused(*command.split(), f"--{option[:-1]}x")
    assert line.endswith(f"did you mean --{option}?")


def test_missing_positional_shows_what_is_expected(refused):
    assert refused("resize", "vm", "hot0") == "godwit resize: an argument is missing: godwit resize VM ID SIZE"


def test_too_many_positionals_name_the_first_one_too_many(refused):
    assert refused("pause", "a", "b") == "godwit pause: unexpected argument 'b': it takes VM"
    assert refused("run", "disk.img") == "godwit run: unexpected argument 'disk.img': it takes none"


def test_option_without_its_value(refused):
    assert refused("run", "--kernel") == "godwit run: --kernel needs a value: --kernel FILE"


def test_version(godwit):
    result = godwit("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("godwit 0.")


def test_unwritable_output_is_a_failure(godwit):
    with open("/dev/full", "w", encoding="ascii") as full:
        result = subprocess.run([GODWIT, "help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert "cannot write to standard output" in result.stderr


@pytest.mark.parametrize("arguments, message", [
    ([], "--kernel is missing: give the kernel to boot"),
    (["--kernel", "k"], "--memory is missing: give the size of boot memory, as 512M"),
    (["--kernel", "k", "--memory", "lots"], "--memory: 'lots' is not a size: write a number and K, M, G or T"),
    (["--kernel", "k", "--memory", "1G,colour=red"],
     "--memory: unknown option 'colour': known are size, backing, host-node, prealloc, node"),
    (["--kernel", "k", "--memory", "1G", "--cpus", "99"], "--cpus 99: 1 to 64 are possible"),
    (["--kernel", "k", "--memory", "1G", "--name", "a/b"],
     "--name 'a/b': use only letters, digits, '.', '_' and '-'"),
    (["--kernel", "k", "--memory", "1G", "--elastic", "id=a,max=5M"],
     "--elastic 'a': max 5M is not a multiple of the block size 2M: 6M would be"),
    (["--kernel", "k", "--memory", "1G", "--log", "loud"], "--log: 'loud' is none of error, warning, info, debug"),
])
def test_run_refuses_before_anything_happens(refused, tmp_path, arguments, message):
    assert refused("run", *arguments) == f"godwit run: {message}"
    assert not (tmp_path / "run").exists()


def test_missing_kernel_file_is_a_failure(refused):
    line = refused("run", "--kernel", "/no/such/kernel", "--memory", "64M", status=1)
    assert line == "godwit run: cannot open the kernel /no/such/kernel: No such file or directory"


def test_failed_start_leaves_nothing_behind(godwit, tmp_path):
    pid_file = tmp_path / "pid"
    godwit("run", "--kernel", "/no/such/kernel", "--memory", "64M", "--pid-file", pid_file)
    assert list((tmp_path / "run").iterdir()) == []
    assert not pid_file.exists()


@pytest.mark.parametrize("arguments", [["status", "vm"], ["memory", "vm"], ["resize", "vm", "hot0", "1G"],
                                       ["pause", "vm"], ["resume", "vm"], ["reset", "vm"], ["stop", "vm"],
                                       ["jobs", "vm"], ["events", "vm"], ["qmp", "vm", "query-status"]])
def test_vm_that_does_not_run_is_a_failure(refused, arguments):
    assert refused(*arguments, status=1) == (
        f"godwit {arguments[0]}: no VM named 'vm' is running: none is, start one with 'godwit run'")


def test_names_cannot_leave_the_run_directory(refused):
    assert refused("status", "../vm") == "godwit status: name '../vm' starts with '.': start with a letter or a digit"


def test_sizes_are_checked_before_connecting(refused):
    assert refused("resize", "vm", "hot0", "1GX") == (
        "godwit resize: '1GX' is not a size: write a number and K, M, G or T")


def test_timeout_without_wait_is_refused(refused):
    assert refused("resize", "vm", "hot0", "1G", "--timeout", "5") == (
        "godwit resize: --timeout is for --wait: add it")


def test_live_view_needs_a_terminal(refused):
    assert refused("top") == (
        "godwit top: standard input and output are not a terminal: use --once or --json")


def test_without_a_place_for_sockets_it_says_what_to_set(refused):
    root = os.geteuid() == 0  # which always has /run/godwit
    try:
        line = refused("list", environment={"GODWIT_RUN_DIR": "", "XDG_RUNTIME_DIR": ""}, cwd="/",
                       **({"user": 65534, "extra_groups": []} if root else {}))
    except PermissionError:
        pytest.skip("the program is in a folder that only root may enter")
    assert "set XDG_RUNTIME_DIR or GODWIT_RUN_DIR" in line


def test_path_too_long_for_a_socket_says_what_to_do(refused, tmp_path):
    line = refused("status", "vm", environment={"GODWIT_RUN_DIR": str(tmp_path / ("x" * 120))})
    assert line.endswith("set GODWIT_RUN_DIR to a shorter directory")


def test_nothing_runs(godwit):
    assert godwit("list").stdout.startswith("NAME")
    assert godwit("list", "--json").stdout == "[]\n"
    assert godwit("top", "--json").stdout == "[]\n"
    assert godwit("top", "--once").stdout.endswith("no VM is running\n")
