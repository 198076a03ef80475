# SPDX-License-Identifier: BSD-2-Clause
"""What is said to back-ends on the wire when the guest's memory changes under a running disk: each change is a message at most, and
nothing that stays is sent again."""

from collections import Counter

import pytest
from support.back_ends import godwit_blk, image, storage_daemon
from support.vhost_user_wire import ADD_MEM_REG, REM_MEM_REG, SET_MEM_TABLE, Wire
from support.vm import MIB
from test_vhost_user import ELASTIC, back_end_of, guest

BLOCK = 2 * MIB  # that the guest plugs and unplugs one by one
BOOT = 32 * MIB
ROUNDS = 200


def few_slots(folder, disk):
    return godwit_blk(folder, disk, "--slots", "8")


@pytest.mark.parametrize("kind", [godwit_blk, storage_daemon, few_slots])
def test_a_change_of_one_block_is_at_most_one_message(kind, tmp_path):
    with kind(tmp_path, image(tmp_path / "disk", 1 * MIB)) as daemon, Wire(tmp_path / "wire", daemon) as wire:
        daemon.start()
        with guest(wire, *ELASTIC, cmdline=f"rounds={ROUNDS} elastic=1 half={ROUNDS - 1}") as vm:
            vm.checkpoint("half")
            counts = Counter(request for request, _, _ in wire.messages)
            sizes = {size for request, _, size in wire.messages if request == ADD_MEM_REG}
            memory = back_end_of(vm)["memory"]
            assert len(wire.held) == memory["slots"] <= memory["maximum"]
            vm.go_on().finish()
            assert vm.numbers["resets"] == 0
        # At most one block comes in a round and one goes; boot memory comes at the beginning.
        assert 20 < counts[ADD_MEM_REG] <= ROUNDS + 1 and 20 < counts[REM_MEM_REG] <= ROUNDS
        assert counts[SET_MEM_TABLE] == 0 and not wire.wrong
        if kind is not few_slots:
            assert sizes == {BLOCK, BOOT}
