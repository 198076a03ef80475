# SPDX-License-Identifier: BSD-2-Clause
"""godwit-blk as the disk of mini-guests. It keeps what is under way in a buffer that outlives it, and takes memory in as
many pieces as there are."""

import random
import time

import pytest
from support.back_ends import godwit_blk, image
from support.vm import MIB
from test_mini import LIMIT
from test_vhost_user import ELASTIC, back_end_of, guest, wait_back_end


@pytest.fixture
def daemon(tmp_path):
    with godwit_blk(tmp_path, image(tmp_path / "disk", 1 * MIB)) as back_end:
        yield back_end


def test_killed_at_any_time_no_request_is_lost_or_asked_for_again(daemon):
    daemon.start()
    generator = random.Random(6)
    with guest(daemon, *ELASTIC, cmdline="rounds=400 elastic=1") as vm:
        for _ in range(12):
            vm.serial.expect(r"^round \d+\r?$", LIMIT)
            time.sleep(generator.random() / 20)
            daemon.kill()
            daemon.start()
            wait_back_end(vm, True)
        vm.finish()
        assert vm.numbers["resets"] == 0


def test_each_piece_of_memory_is_held_by_itself(daemon):
    daemon.start()
    with guest(daemon, *ELASTIC, cmdline="rounds=200 elastic=1 half=150") as vm:
        vm.checkpoint("half")
        memory = back_end_of(vm)["memory"]
        assert memory["exact"] and memory["excess"] == 0 and memory["maximum"] == 32764
        vm.go_on().finish()
        assert vm.numbers["resets"] == 0


def test_orderly_end_and_next_begin(daemon, tmp_path):
    """Requests that are under way are finished, and the disk is free for the next."""
    daemon.start()
    with guest(daemon, cmdline="rounds=100 half=50") as vm:
        vm.checkpoint("half")
        daemon.process.terminate()
        assert daemon.process.wait(LIMIT) == 0
        wait_back_end(vm, False)
        daemon.start()
        wait_back_end(vm, True)
        vm.go_on().finish()
        assert vm.numbers["resets"] == 0
    assert len(set((tmp_path / "disk").read_bytes())) > 1
