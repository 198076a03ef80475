# SPDX-License-Identifier: BSD-2-Clause
"""Machines with an RDMA device: what is refused, before anything has changed. tests/mini/test_rdma_move.py moves them,
tests/stock/test_rdma.py uses the device."""

import subprocess

import pytest
from support.vm import BUILD, GODWIT

# In a network namespace of its own, where interfaces can be made and the port is free.
ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
NET, RDMA, SHARED = ("--net", "tap:godwit0,id=front"), ("--rdma", "udp:127.0.0.1"), ("--rdma", "net=front")


@pytest.fixture(scope="module", autouse=True)
def namespace():
    if subprocess.run(["unshare", "--net", "test", "-w", "/dev/net/tun"], capture_output=True).returncode:
        pytest.skip("no network namespaces, or no tap interfaces")


@pytest.mark.parametrize("arguments, message", [
    (RDMA, "there is no --net before it, whose addresses it could have"),
    ((*NET, "--rdma", "udp:127.0.0.1,net=back"), "there is no --net with id=back before it"),
    ((*NET, "--rdma", "tap:godwit0"), "it needs a port: net=ID, the interface --net with that id, or udp:ADDRESS"),
    ((*NET, "--rdma", "net=back"), "there is no --net with id=back before it"),
    ((*NET, "--rdma", "net=front", "--rdma", "net=front"), "the frames of 'front' are shared already"),
    ((*NET, "--rdma", "udp:nowhere"), "'nowhere'"),
    ((*NET, "--rdma", "udp:192.0.2.1"), "192.0.2.1"),
    ((*NET, "--rdma", "udp:127.0.0.1,mtu=9"), "mtu"),
    ((*NET, *RDMA, *RDMA), "127.0.0.1"),
])
def test_what_cannot_be_is_refused(arguments, message):
    said = subprocess.run([*ALONE, GODWIT, "run", "--kernel", BUILD / "tests/mini/moving.elf", "--memory", "16M", *arguments],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert said.returncode in (1, 2) and message in said.stderr
