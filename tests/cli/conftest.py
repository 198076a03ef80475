# SPDX-License-Identifier: BSD-2-Clause
"""The program without a machine: run it, and look at what it says and how it ends."""

import os
import subprocess

import pytest

from support.vm import GODWIT


@pytest.fixture
def godwit(tmp_path):
    """Runs godwit with these arguments in an empty run directory."""

    def run(*arguments, **options):
        environment = {**os.environ, "GODWIT_RUN_DIR": str(tmp_path / "run"), **options.pop("environment", {})}
        return subprocess.run([GODWIT, *map(str, arguments)], env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60, check=False, **options)

    return run


@pytest.fixture
def refused(godwit):
    """Runs godwit, which must refuse in one line with this exit status; the line."""

    def run(*arguments, status=2, **options):
        result = godwit(*arguments, **options)
        assert result.returncode == status, result.stderr
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr.strip()

    return run
