# SPDX-License-Identifier: BSD-2-Clause
"""Devices of large state: it flows while the guest runs and when it stands still, and nobody holds all of it."""

import json
import subprocess

import pytest

from support.vm import BUILD

GUESTS = BUILD / "tests/mini"
POOL = GUEST = 16 << 10  # KiB, of the destination's receiver and of the machine
REST = 16 << 10  # connections, threads, what is read of files


def run(what, size, *rest):
    return subprocess.run([GUESTS / "stream_machine", what, GUESTS / "dirtying.elf", "mini memory=6 rounds=1000000000 pace=400000", str(size), *map(str, rest)],
                          capture_output=True, text=True, timeout=400)


def move(size, channels, how="precopy"):
    """What each end has to say."""
    moved = run("move", size, channels, how)
    assert moved.returncode == 0, moved.stderr
    sides = {side["side"]: side for side in map(json.loads, moved.stdout.splitlines())}
    print(sides)
    return sides["source"], sides["destination"]


def test_one_gibibyte_passes_through_the_pool(tmp_path):
    source, destination = move(1024, 4)
    assert source["state-bytes"] >= 1 << 30
    assert source["peak-kib"] < GUEST + REST
    assert destination["peak-kib"] < POOL + GUEST + REST


@pytest.mark.parametrize("how", ["precopy", "postcopy"])
def test_a_stream_goes_over_one_channel_too(how):
    source, _ = move(64, 1, how)
    assert source["state-bytes"] >= 64 << 20


def test_a_device_that_refuses_its_stream_keeps_the_guest_at_home():
    move(64, 4, "refused")


def test_a_stream_that_is_not_too_large_is_saved(tmp_path):
    saved = run("save", 32, tmp_path / "saved")
    assert saved.returncode == 0, saved.stderr
    assert (tmp_path / "saved").stat().st_size > 32 << 20


def test_a_stream_that_is_too_large_for_a_snapshot_is_refused_by_name(tmp_path):
    saved = run("save", 200, tmp_path / "saved")
    assert saved.returncode == 1
    assert saved.stderr == "0000:00:02.0/virtio-stream/stream: states of devices have more than 67108864 bytes\n"
    assert not (tmp_path / "saved").exists()
