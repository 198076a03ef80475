# SPDX-License-Identifier: BSD-2-Clause
"""Machines with an RDMA device that move, in every way there is: the port follows the machine. The guests do not use the device:
tests/unit/test_rdma_device_state.c shows what becomes of connections, with the same saving and loading."""

import time
from pathlib import Path

import pytest

from support import tls
from support.vm import Machine
from mini_machine import ENDLESS, LIMIT, Going, Original, Restored, goes_on
from test_rdma import ALONE, NET, RDMA, SHARED, namespace

__all__ = ["namespace"]
PORT = ":12B7"  # 4791, in the kernel's tables
TAKEN = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 4791)); time.sleep(240)"


class Destination(Going, Machine):
    def __init__(self, folder, *arguments, wrapper=ALONE):
        super().__init__("--incoming", f"unix:{folder}/socket", "--log=info", *self.start(folder, "destination"), *arguments,
                         serial=False, console=False, wrapper=wrapper)
        end = time.monotonic() + 60
        while "waiting for a VM" not in self.stderr():
            self.check_alive()
            assert time.monotonic() < end, self.stderr()
            time.sleep(0.02)


def migrate(source, folder, *options, check=True):
    source.qmp.command("query-status")  # it has started
    return source.cli("migrate", source.name, f"unix:{folder}/socket", *options, check=check, limit=LIMIT)


def check_moved(source, there):
    assert source.wait(LIMIT) == 0
    goes_on(there, 3)


def has_port(pid):
    """Whether a socket is bound to the port, where the process is."""
    return any(line.split()[1].endswith(PORT) for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:])


@pytest.fixture
def source(tmp_path):
    with Original(tmp_path, "counting", "--log=info", *NET, *RDMA, cmdline=f"pages=512 steps={ENDLESS}", wrapper=ALONE) as vm:
        vm.wait_lines(2)
        yield vm


@pytest.mark.parametrize("options", [("--channels", "1"), ("--channels", "4"), ("--postcopy",), ("--hybrid",), ("--share-memory",)],
                         ids=lambda options: "".join(options).replace("--", ""))
def test_machine_moves_in_every_way(tmp_path, source, options):
    assert has_port(source.process.pid)
    with Destination(tmp_path) as there:
        migrate(source, tmp_path, *options)
        check_moved(source, there)
        assert has_port(there.process.pid)


def test_machine_moves_with_tls(tmp_path, source):
    tls.make(tmp_path / "tls", "there.example")
    with Destination(tmp_path, "--tls", tmp_path / "tls") as there:
        migrate(source, tmp_path, "--tls", tmp_path / "tls", "--tls-name", "there.example")
        check_moved(source, there)
        assert has_port(there.process.pid)


def test_port_that_somebody_else_has_keeps_the_machine_where_it_is(tmp_path, source):
    wrapper = ("unshare", "--net", "sh", "-c", 'ip link set lo up; python3 -c "$0" & exec "$@"', TAKEN)
    with Destination(tmp_path, wrapper=wrapper) as there:
        end = time.monotonic() + 60
        while not has_port(there.process.pid):
            there.check_alive()
            assert time.monotonic() < end
            time.sleep(0.02)
        assert migrate(source, tmp_path, check=False).returncode == 1
        goes_on(source, 3)
        assert has_port(source.process.pid) and there.text() == ""


def test_machine_goes_on_in_a_new_godwit(source):
    source.cli("update", source.name, limit=LIMIT)
    source._qmp = None
    goes_on(source, 3)
    pid = int((source.directory / f"{source.name}.pid").read_text())
    assert pid != source.process.pid and has_port(pid)


@pytest.mark.parametrize("save, restore", [((), ()), (("--live",), ()), ((), ("--lazy",)), ((), ("--clone",))],
                         ids=["eager", "live", "lazy", "clone"])
def test_machine_is_saved_and_restored(tmp_path, source, save, restore):
    source.save(tmp_path / "file", *save)
    if save:
        goes_on(source, 2)
        assert has_port(source.process.pid)
    with Restored(tmp_path, tmp_path / "file", *restore, wrapper=ALONE) as there:
        goes_on(there, 3)
        assert has_port(there.process.pid)


def test_adapter_of_the_interface_goes_along(tmp_path):
    with Original(tmp_path, "counting", "--log=info", *NET, *SHARED, cmdline=f"pages=512 steps={ENDLESS}", wrapper=ALONE) as source:
        source.wait_lines(2)
        source.save(tmp_path / "file", "--live")
        with Destination(tmp_path) as there:
            migrate(source, tmp_path)
            check_moved(source, there)
    with Restored(tmp_path, tmp_path / "file", wrapper=ALONE) as restored:
        goes_on(restored, 3)
