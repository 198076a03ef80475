# SPDX-License-Identifier: BSD-2-Clause
"""A machine's state: a guest that is moved again and again does not notice."""

import subprocess

from support.vm import BUILD

GUESTS = BUILD / "tests/mini"


def test_a_guest_does_not_notice_that_it_is_moved(tmp_path):
    rounds = 60
    moved = subprocess.run([GUESTS / "move_machine", GUESTS / "moving.elf", f"mini rounds={rounds}", tmp_path],
                           capture_output=True, text=True, timeout=400)
    assert moved.returncode == 0, moved.stderr
    moves = int(moved.stdout)
    heard = "".join((tmp_path / str(n)).read_text() for n in range(moves + 1)).replace("\r", "").splitlines()
    assert heard == [f"round {n}" for n in range(1, rounds + 1)] + ["done"]
    assert moves > 2
