# SPDX-License-Identifier: BSD-2-Clause
"""Completion in bash offers what there is."""

import os
import subprocess
from pathlib import Path

import pytest

from support.program import options_of, subcommands
from support.vm import GODWIT, REPOSITORY


@pytest.fixture
def complete(tmp_path):
    def run(*words):
        script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _godwit; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        environment = dict(os.environ, PATH=f"{Path(GODWIT).parent}:{os.environ['PATH']}",
                           GODWIT_RUN_DIR=str(tmp_path))
        return subprocess.run(["bash", "-c", script, "bash", REPOSITORY / "src/cli/completion.bash", *words], text=True,
                              env=environment, capture_output=True, check=True).stdout.split()

    return run


def test_subcommands(complete):
    assert complete("godwit", "") == subcommands()
    assert complete("godwit", "res") == [name for name in subcommands() if name.startswith("res")]


def test_options(complete):
    assert set(complete("godwit", "resize", "--")) == {"--help", *("--" + name for name in options_of("resize"))}


def test_files(complete, tmp_path):
    (tmp_path / "vmlinuz").touch()
    assert complete("godwit", "run", "--kernel", f"{tmp_path}/vml") == [f"{tmp_path}/vmlinuz"]


def test_kinds_of_first_answers(complete):
    assert complete("godwit", "restore", "web.snap", "--first-answer", "v") == ["vsock:"]


def test_no_vm_to_offer(complete):
    assert complete("godwit", "pause", "") == []


def test_actions_and_their_options(complete):
    assert complete("godwit", "snapshot", "ver") == ["verify"]
    assert "--raw" in complete("godwit", "snapshot", "export", "--")


def test_snapshot_files(complete, tmp_path):
    (tmp_path / "web.snap").touch()
    assert complete("godwit", "snapshot", "info", f"{tmp_path}/we") == [f"{tmp_path}/web.snap"]


@pytest.mark.parametrize("words", [["restore"], ["save", "web"], ["save", "web", "--base"]])
def test_files_to_save_and_restore(complete, tmp_path, words):
    (tmp_path / "web.snap").touch()
    assert complete("godwit", *words, f"{tmp_path}/we") == [f"{tmp_path}/web.snap"]
