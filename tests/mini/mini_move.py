# SPDX-License-Identifier: BSD-2-Clause
"""Machines with mini-guests that move: both ends, the ways between them, where a connection breaks, and who has the guest
afterwards."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from support import tls
from support.migration_proxy import Proxy
from support.vm import GODWIT, Failure, Machine, Qmp
from mini_machine import ENDLESS, LIMIT, Going, Original, follows, goes_on

COUNTING = f"pages=512 steps={ENDLESS}"


class Moving(Going):
    """One that tells of its migration()."""

    def wait_state(self, *states, limit=LIMIT):
        end = time.monotonic() + limit
        while self.migration()["state"] not in states:
            assert time.monotonic() < end, self.migration()
            time.sleep(0.02)
        return self.migration()


class Source(Moving, Original):
    def migrate(self, uri, *options, check=True):
        self.qmp.command("query-status")  # it has started
        return self.cli("migrate", self.name, uri, *options, check=check, limit=LIMIT)

    def start_migrate(self, uri, *options, **how):
        """The command, which runs until it knows what became of the migration, or is interrupted."""
        self.qmp.command("query-status")
        return subprocess.Popen([GODWIT, "migrate", self.name, uri, *options], env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)

    def migration(self):
        return self.qmp.command("godwit-migration")["outgoing"]


class Destination(Moving, Machine):
    def __init__(self, folder, uri, *arguments, log="destination", inherited=(), **options):
        self.inherited = inherited
        super().__init__("--incoming", uri, "--log=info", *self.start(folder, log), *arguments, serial=False, console=False,
                         **options)

    def _launch(self, command):
        self.command_line = command
        self.errors = open(self.directory / "stderr", "w+")
        self.process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=self.errors,
                                        stderr=self.errors, pass_fds=self.inherited)

    def wait_said(self, text, limit=60):
        end = time.monotonic() + limit
        while text not in self.stderr():
            self.check_alive()
            assert time.monotonic() < end, self.stderr()
            time.sleep(0.02)

    def migration(self):
        return self.qmp.command("godwit-migration")["incoming"]


def ask(vm, command, **arguments):
    """Over a connection of its own; None of one that has ended, or is about to."""
    try:
        return Qmp(vm.directory / f"{vm.name}.sock", limit=5).command(command, **arguments)
    except (Failure, OSError):
        return None


def settle(vm, how, check=True):
    return vm.cli("migrate", vm.name, f"--{how}", check=check)


def check_goes_on(vms, before=""):
    """The guest goes on in the last one of them, and has neither lost nor done anything twice."""
    goes_on(vms[-1], 3)
    said = before + "".join(vm.text() for vm in vms)
    assert said.startswith("step 1\n") and follows(said), said[-500:]


def check_moved(source, destination):
    """The source has ended and the guest goes on at the destination."""
    assert source.wait(LIMIT) == 0
    check_goes_on([source, destination])


def check_stayed(source, destination):
    check_goes_on([source])
    assert destination.text() == ""


# --- Ways there --------------------------------------------------------------------------------------

RELAY = """
import os, socket, sys, threading
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
def back():
    while data := s.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back).start()
while data := os.read(0, 65536):
    s.sendall(data)
s.shutdown(socket.SHUT_WR)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def go_there(source, folder, kind, options):
    """Runs a destination and moves the source there; what the command printed."""
    arguments = []
    if kind == "fd":
        pairs = [socket.socketpair() for _ in range(3)]
        ends = [end.fileno() for _, end in pairs]
        destination = Destination(folder, "fd:" + "+".join(map(str, ends)), inherited=ends)
        for _, end in pairs:
            end.close()
        mine = [end.fileno() for end, _ in pairs]
        command = [GODWIT, "migrate", source.name, "fd:" + "+".join(map(str, mine)), "--json", *options]
        result = subprocess.run(command, env=source.environment, capture_output=True, text=True, pass_fds=mine, timeout=LIMIT)
        for end, _ in pairs:
            end.close()
        assert result.returncode == 0, result.stderr
        return destination, json.loads(result.stdout)
    if kind == "exec":
        relay = folder / "relay.py"
        relay.write_text(RELAY)
        listens, uri = f"unix:{folder}/socket", f"exec:exec {sys.executable} {relay} {folder}/socket"
    elif kind == "unix":
        listens = uri = f"unix:{folder}/socket"
    else:
        listens = uri = f"tcp:127.0.0.1:{free_port()}"
    if kind == "tls":
        tls.make(folder / "tls", "there.example")
        arguments = ["--tls", folder / "tls"]
        options = (*options, *map(str, arguments), "--tls-name", "there.example")
    destination = Destination(folder, listens, *arguments)
    destination.wait_said("waiting for a VM")
    return destination, json.loads(source.migrate(uri, "--json", *options).stdout)


def guest_memory(vm):
    """The content of the machine's memory, by name, as the host holds it."""
    memory = {}
    for fd in Path(f"/proc/{vm.process.pid}/fd").iterdir():
        name = re.match(r"/memfd:([\w-]+)", os.readlink(fd))
        if name:
            memory[name.group(1)] = fd.read_bytes()
    return memory


# --- What breaks -------------------------------------------------------------------------------------


def at(step, when, number=0):
    return lambda name, count: when if name == step and count == number else None


class Cut:
    """A migration through a proxy that breaks; the source's command has ended when the block begins."""

    def __init__(self, pair, folder, *break_arguments, options=(), **break_options):
        self.source, self.destination = pair
        self.options = options
        self.proxy = Proxy(folder / "proxy", folder / "socket", *break_arguments, **break_options)
        self.uri = f"unix:{folder}/proxy"

    def __enter__(self):
        self.result = self.source.migrate(self.uri, "--channels", "2", *self.options, check=False)
        return self

    def __exit__(self, *exception):
        self.proxy.close()


def killed(vm):
    def kill():
        vm.process.send_signal(signal.SIGKILL)
        vm.process.wait()
    return kill


# --- Memory that follows -----------------------------------------------------------------------------

LARGE = f"pages=3000 ballast=4000 steps={ENDLESS}"  # the one is touched again and again, the other never
SLOW = ("--bandwidth", "1K")  # what nobody touches does not come for now
PACED = ("--bandwidth", "1M")  # it is not all there before the guest is


class Two:
    """A counting guest, and a place to go to."""

    def __init__(self, folder, *arguments, guest="counting", cmdline=LARGE, there=(), lines=1, **options):
        self.folder, self.cmdline, self.guest = folder, cmdline, guest
        self.arguments, self.options, self.there, self.lines = arguments, options, there, lines

    def __enter__(self):
        self.source = Source(self.folder, self.guest, *self.arguments, cmdline=self.cmdline, **self.options).__enter__()
        self.destination = Destination(self.folder, f"unix:{self.folder}/socket", *self.there).__enter__()
        self.destination.wait_said("waiting for a VM")
        self.source.wait_lines(self.lines)
        return self.source, self.destination

    def __exit__(self, *exception):
        for vm in (self.source, self.destination):
            vm.__exit__(*exception)


def begin(source, folder, *options, uri="socket"):
    source.migrate(f"unix:{folder}/{uri}", "--no-wait", *options)
    return source.wait_state("SERVING")


def release(source):
    """The rest may come, if it has not."""
    try:
        source.qmp.command("godwit-migrate-limit", bandwidth=0)
    except (Failure, OSError):
        assert source.wait(LIMIT) == 0


def recover(source, destination, folder, *options, uri="socket", check=True):
    end = time.monotonic() + LIMIT
    while "listening" not in destination.migration():
        assert time.monotonic() < end, destination.migration()
        time.sleep(0.02)
    return source.cli("migrate", source.name, f"unix:{folder}/{uri}", "--recover", *options, check=check, limit=LIMIT)
