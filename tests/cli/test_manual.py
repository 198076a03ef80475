# SPDX-License-Identifier: BSD-2-Clause
"""The manual says what the program does: the same subcommands, options and commands in both."""

import re
import shutil
import subprocess

import pytest

from support.program import commands, options_of, subcommands
from support.vm import REPOSITORY

MANUAL = REPOSITORY / "docs/man"


def page(command):
    return (MANUAL / f"godwit-{command.replace(' ', '-')}.1").read_text()


def test_every_command_has_a_page_and_every_page_a_command():
    pages = {path.name[len("godwit-"):-len(".1")] for path in MANUAL.glob("godwit-*.1")}
    assert pages == {command.replace(" ", "-") for command in commands()} | {"blk"}  # a program of its own: test_blk.py


def test_overview_lists_every_subcommand():
    listed = re.findall(r"^\.It Cm (\S+)$", (MANUAL / "godwit.1").read_text(), re.MULTILINE)
    assert listed == subcommands()


def test_every_page_is_installed():
    installed = set(re.findall(r"'(godwit\S*\.1)'", (MANUAL / "meson.build").read_text()))
    assert installed == {path.name for path in MANUAL.glob("*.1")}


@pytest.mark.parametrize("command", commands())
def test_page_has_the_options_of_the_help(command):
    described = re.findall(r"^\.It Fl -(\S+)( .*)?$", page(command), re.MULTILINE)
    assert {name: bool(value) for name, value in described} == options_of(command)


@pytest.mark.parametrize("command", commands())
def test_synopsis_names_only_options_that_exist(command):
    synopsis = page(command).split(".Sh SYNOPSIS")[1].split(".Sh ")[0]
    named = set(re.findall(r"Fl -(\S+)", synopsis))
    assert named <= set(options_of(command))
    if command != "run":  # which has too many
        assert named == set(options_of(command))


def test_qmp_page_lists_every_command():
    source = (REPOSITORY / "src/control/commands.c").read_text()
    commands = set(re.findall(r'^    \{"([a-z_-]+)",', source, re.MULTILINE))
    assert len(commands) > 15
    listed = set()
    for line in re.findall(r"^\.It Ic (.*)$", page("qmp"), re.MULTILINE):
        listed.update(word for word in line.split() if word != ",")
    assert listed == commands


@pytest.mark.parametrize("path", sorted(MANUAL.glob("*.1")), ids=lambda path: path.name)
def test_page_is_sound(path):
    if not shutil.which("man"):
        pytest.skip("no man")
    result = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", path], capture_output=True, text=True, check=False,
                            env={"MANWIDTH": "80", "PATH": "/usr/bin:/bin", "MANROFFOPT": ""})
    assert result.returncode == 0
    assert result.stderr == ""


@pytest.mark.parametrize("command", commands())
def test_help_is_the_same_both_ways(godwit, command):
    asked = godwit("help", *command.split())
    assert asked.returncode == 0
    assert asked.stdout.startswith(f"usage: godwit {command}")
    assert godwit(*command.split(), "--help").stdout == asked.stdout
    assert godwit(*command.split(), "-h").stdout == asked.stdout


@pytest.mark.parametrize("command", commands())
def test_help_fits_a_terminal(godwit, command):
    assert max(map(len, godwit("help", *command.split()).stdout.splitlines())) <= 92


def test_overview_is_printed_by_help_and_by_the_option(godwit):
    assert godwit("help").stdout == godwit("--help").stdout == godwit("-h").stdout
