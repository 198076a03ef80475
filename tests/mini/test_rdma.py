# SPDX-License-Identifier: BSD-2-Clause
"""Machines with an RDMA device: what is refused, before anything has changed. tests/stock/test_rdma.py uses the device."""

import subprocess

import pytest
from support.vm import BUILD, GODWIT, Machine

# In a network namespace of its own, where interfaces can be made and the port is free.
ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
NET, RDMA, SHARED = ("--net", "tap:godwit0,id=front"), ("--rdma", "udp:127.0.0.1"), ("--rdma", "net=front")
MOVED = "'rdma' is an RDMA device, whose queue pairs are connected with peers: a VM with such a device cannot be saved or moved"


@pytest.fixture(scope="module", autouse=True)
def namespace():
    if subprocess.run(["unshare", "--net", "test", "-w", "/dev/net/tun"], capture_output=True).returncode:
        pytest.skip("no network namespaces, or no tap interfaces")


class Rdma(Machine):
    def __init__(self, *arguments):
        super().__init__("--kernel", BUILD / "tests/mini/moving.elf", "--cmdline", "mini rounds=100000", "--memory", "16M",
                         *arguments, wrapper=ALONE)


@pytest.mark.parametrize("rdma", [RDMA, SHARED], ids=["udp", "tap"])
@pytest.mark.parametrize("words", [("save", "{name}", "{folder}/file"), ("save", "{name}", "{folder}/file", "--live"),
                                   ("migrate", "{name}", "unix:{folder}/nobody"),
                                   ("migrate", "{name}", "unix:{folder}/nobody", "--postcopy"), ("update", "{name}")])
def test_machine_is_neither_saved_nor_moved_nor_updated(tmp_path, words, rdma):
    with Rdma(*NET, *rdma) as vm:
        vm.qmp.command("query-status")
        said = vm.cli(*[word.format(name=vm.name, folder=tmp_path) for word in words], check=False)
        assert said.returncode == 1 and MOVED in said.stderr
        assert vm.qmp.command("query-status")["status"] == "running"
        assert list(tmp_path.iterdir()) == []


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
