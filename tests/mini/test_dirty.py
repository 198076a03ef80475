# SPDX-License-Identifier: BSD-2-Clause
"""The log of writes: who copies a running guest's memory by it has all of it in the end."""

import os
import subprocess

from support.vm import BUILD

GUESTS = BUILD / "tests/mini"


def test_no_write_of_the_guest_or_a_device_is_missed(tmp_path):
    rounds = 300
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(64 * 1024))
    watched = subprocess.run([GUESTS / "watch_writes", GUESTS / "writing.elf", f"mini rounds={rounds}", disk, tmp_path / "serial"],
                             capture_output=True, text=True, timeout=400)
    assert watched.returncode == 0, watched.stderr
    heard = (tmp_path / "serial").read_text().replace("\r", "").splitlines()
    assert not [line for line in heard if line.startswith("FAIL")]
    assert heard[-2:] == [f"round {rounds}", "done"]
    figures = dict(line.rsplit(maxsplit=1) for line in watched.stdout.splitlines())
    assert int(figures["comparisons"]) > 3
    # What is left for the pause is little, or the log would just say "everything".
    assert int(figures["last pages"]) < int(figures["comparisons"]) * int(figures["pages"]) / 4
