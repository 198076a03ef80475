# SPDX-License-Identifier: BSD-2-Clause
"""Moving a machine to another process, with mini-guests: whatever the way, and whatever breaks, exactly one process runs the
guest afterwards, and it goes on exactly where it was."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import cutter as cutters
from support import tls
from support.migration_proxy import Proxy
from support.vm import GODWIT, KIB, MIB, Machine
from mini_machine import ENDLESS, LIMIT, Going, Original, Restored, counted, follows, goes_on, refused

COUNTING = f"pages=512 steps={ENDLESS}"


class Source(Original):
    def migrate(self, uri, *options, check=True):
        self.qmp.command("query-status")  # it has started
        return self.cli("migrate", self.name, uri, *options, check=check, limit=LIMIT)

    def migration(self):
        return self.qmp.command("godwit-migration")["outgoing"]

    def wait_state(self, *states, limit=LIMIT):
        end = time.monotonic() + limit
        while self.migration()["state"] not in states:
            assert time.monotonic() < end, self.migration()
            time.sleep(0.02)
        return self.migration()


class Destination(Going, Machine):
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

    def wait_state(self, *states, limit=LIMIT):
        end = time.monotonic() + limit
        while self.migration()["state"] not in states:
            assert time.monotonic() < end, self.migration()
            time.sleep(0.02)
        return self.migration()


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

WAYS = {
    "unix": ("unix", ("--channels", "1")),
    "unix-4": ("unix", ("--channels", "4")),
    "tcp": ("tcp", ()),
    "zstd": ("tcp", ("--compress", "zstd", "--channels", "4")),
    "tls": ("tls", ("--channels", "1")),
    "tls-zstd": ("tls", ("--channels", "4", "--compress", "zstd")),
    "fd": ("fd", ("--channels", "2")),
    "exec": ("exec", ("--channels", "2")),
}

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


@pytest.mark.parametrize("way", WAYS)
def test_running_guest_goes_on_where_it_was(tmp_path, way):
    kind, options = WAYS[way]
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        source.wait_lines(3)
        destination, report = go_there(source, tmp_path, kind, options)
        with destination:
            assert report["status"] == "completed"
            assert report["state"] == "GONE"
            check_moved(source, destination)
            downtime = report["downtime"]
            parts = [downtime[f"{part}-ns"] for part in ("stop", "states", "pages", "load", "confirm")]
            assert all(part > 0 for part in parts)
            assert sum(parts) <= downtime["total-ns"]
            assert 0 < downtime["resume-ns"] <= downtime["confirm-ns"]
            assert (report["compressed-pages"] > 0) == ("zstd" in way)


@pytest.fixture
def pair(tmp_path):
    """A counting guest and a place to go to."""
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            source.wait_lines(2)
            yield source, destination


def test_source_ends_with_a_clear_status(pair, tmp_path):
    source, destination = pair
    qmp = source.qmp
    source.migrate(f"unix:{tmp_path}/socket", "--no-wait")
    assert qmp.event("MIGRATION")["status"] == "completed"
    assert qmp.event("SHUTDOWN") == {"guest": False, "reason": "migrated"}
    assert destination.qmp.command("query-status")["status"] in ("running", "inmigrate")
    check_moved(source, destination)


def test_command_tells_what_it_did(pair, tmp_path):
    source, destination = pair
    said = source.migrate(f"unix:{tmp_path}/socket").stdout
    assert said.startswith(f"migrated to unix:{tmp_path}/socket: ") and "the guest stood still for" in said
    check_moved(source, destination)


def test_paused_machine_stays_paused(pair, tmp_path):
    source, destination = pair
    source.cli("pause", source.name)
    source.migrate(f"unix:{tmp_path}/socket")
    assert destination.qmp.command("query-status") == {"status": "paused", "running": False}
    destination.cli("resume", destination.name)
    check_moved(source, destination)


def test_destination_may_be_told_to_stay_paused(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket", "--paused") as destination:
            source.wait_lines(2)
            source.migrate(f"unix:{tmp_path}/socket")
            assert destination.qmp.command("query-status")["status"] == "paused"
            destination.cli("resume", destination.name)
            check_moved(source, destination)


def test_machine_that_is_paused_while_it_arrives_stays_paused(pair, tmp_path):
    source, destination = pair
    source.migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K", "--no-wait")
    destination.wait_state("RECEIVING")
    destination.cli("pause", destination.name)
    source.qmp.command("godwit-migrate-limit", bandwidth=0)
    assert source.wait(LIMIT) == 0
    assert destination.qmp.command("query-status")["status"] == "paused"
    destination.cli("resume", destination.name)
    check_moved(source, destination)


def guest_memory(vm):
    """The content of the machine's memory, by name, as the host holds it."""
    memory = {}
    for fd in Path(f"/proc/{vm.process.pid}/fd").iterdir():
        name = re.match(r"/memfd:([\w-]+)", os.readlink(fd))
        if name:
            memory[name.group(1)] = fd.read_bytes()
    return memory


@pytest.mark.parametrize("channels,compress", [(1, "none"), (4, "zstd")])
def test_memory_is_the_same_byte_by_byte(tmp_path, channels, compress):
    """The guest and devices write all the time, elastic memory comes and goes. The link is cut at the last word, so that both
    stand still, with all there is."""
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(64 * KIB))
    with Source(tmp_path, "writing", "--disk", disk, "--elastic", "id=hot0,max=64M,size=64M,block=2M",
                cmdline=f"rounds={ENDLESS}") as source:
        source.wait_text(lambda text: "round 2" in text)
        with Destination(tmp_path, f"unix:{tmp_path}/socket", "--paused") as destination:
            destination.wait_said("waiting for a VM")
            with Proxy(tmp_path / "proxy", tmp_path / "socket", at("RUNNING", "before")):
                refused(source.migrate(f"unix:{tmp_path}/proxy", "--channels", channels, "--compress", compress,
                                       "--max-downtime", "20", check=False))
                destination.wait_state("RUNNING")
                here, there = guest_memory(source), guest_memory(destination)
                assert set(here) == set(there) >= {"memory0", "hot0"}
                for name, content in here.items():
                    pages = [at for at in range(0, len(content), 4096) if content[at:at + 4096] != there[name][at:at + 4096]]
                    assert pages == [], f"{name}: {[hex(page) for page in pages[:20]]}"
                settle(source, "give-up")
                destination.cli("resume", destination.name)
                assert source.wait(LIMIT) == 0
                destination.wait_lines(100)
                *lines, _ = (source.text() + destination.text()).split("\n")
                said = [line for line in lines if not line.startswith("ok ")]
                assert said == [f"round {n}" for n in range(1, len(said) + 1)]


def test_it_goes_there_and_back(tmp_path):
    vms = []
    try:
        vms.append(Source(tmp_path, "counting", cmdline=COUNTING))
        for n in range(5):
            vms.append(Destination(tmp_path, f"unix:{tmp_path}/socket{n}", log=f"log{n}"))
            vms[-1].wait_said("waiting for a VM")
            vms[-2].wait_text(lambda said: said.count("\n") >= 2)
            vms[-2].cli("migrate", vms[-2].name, f"unix:{tmp_path}/socket{n}")
            assert vms[-2].wait(LIMIT) == 0
        check_goes_on(vms)
    finally:
        for vm in vms:
            vm.kill()


def test_what_has_come_is_saved_while_it_runs_and_goes_on_by_postcopy(tmp_path):
    """Full memory arrives in huge pages where the host has them: those are watched page by page all the same."""
    vms = [Source(tmp_path, "dirtying", memory="32M", cmdline=f"memory=16 rounds={ENDLESS} pace=100000")]
    try:
        vms[0].wait_lines(2)
        for n, mode in enumerate([(), ("--postcopy",)]):
            vms.append(Destination(tmp_path, f"unix:{tmp_path}/socket{n}", log=f"log{n}"))
            vms[-1].wait_said("waiting for a VM")
            vms[-2].cli("migrate", vms[-2].name, f"unix:{tmp_path}/socket{n}", *mode, limit=LIMIT)
            assert vms[-2].wait(LIMIT) == 0
            vms[-1].wait_lines(2)
            vms[-1].wait_state("RUNNING")
            vms[-1].save(tmp_path / f"file{n}", "--live")
            with Restored(tmp_path, tmp_path / f"file{n}", log=f"restored{n}") as restored:
                goes_on(restored)
        goes_on(vms[-1])
        assert follows("".join(vm.text() for vm in vms))
    finally:
        for vm in vms:
            vm.kill()


# --- Elastic memory ----------------------------------------------------------------------------------


def test_elastic_memory_moves_and_what_is_unplugged_is_not_populated(tmp_path):
    with Source(tmp_path, "counting", "--elastic", "id=hot0,max=1G,size=16M,block=2M",
                cmdline=f"pages=256 elastic=4 steps={ENDLESS}") as source:
        source.wait_lines(2)
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            report = json.loads(source.migrate(f"unix:{tmp_path}/socket", "--json").stdout)
            assert destination.region_resident("hot0") <= 8 * MIB
            assert destination.elastic("hot0")["size"] == 8 * MIB
            assert report["pages"] + report["zero-pages"] < 200 * MIB // 4096
            check_moved(source, destination)


@pytest.mark.parametrize("backing", ["memfd", "anon", "hugetlb", "prealloc"])
def test_every_backing_moves(tmp_path, backing, backing_of):
    if backing == "hugetlb":
        backing_of(backing)
    with Source(tmp_path, "counting", cmdline=COUNTING, memory=f"64M,{backing_of(backing)}") as source:
        source.wait_lines(2)
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            source.migrate(f"unix:{tmp_path}/socket")
            check_moved(source, destination)


@pytest.mark.parametrize("mode", [(), ("--postcopy",)], ids=["precopy", "postcopy"])
@pytest.mark.parametrize("way", ["--lazy", "--clone"])
def test_restored_machine_moves(tmp_path, way, mode):
    with Original(tmp_path, "counting", cmdline=COUNTING) as original:
        original.wait_lines(2).cli("pause", original.name)
        original.save(tmp_path / "file")
        text = original.text()
    with Restored(tmp_path, tmp_path / "file", way) as source, Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
        destination.wait_said("waiting for a VM")
        source.qmp.command("query-status")
        source.cli("migrate", source.name, f"unix:{tmp_path}/socket", *mode, limit=LIMIT)
        assert source.wait(LIMIT) == 0
        check_goes_on([source, destination], text)


# --- The disks ---------------------------------------------------------------------------------------


def test_disk_is_locked_by_one_of_them_at_any_time(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 * KIB))
    with Source(tmp_path, "counting", "--disk", disk, "--paused", cmdline="pages=64 steps=20") as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            source.migrate(f"unix:{tmp_path}/socket")
            source.wait(LIMIT)
            second = source.cli("run", "--kernel", source.command_line[source.command_line.index("--kernel") + 1],
                                "--memory", "64M", "--disk", disk, "--name", "second", check=False)
            assert "is in use by another process" in refused(second)
            destination.cli("resume", destination.name)
            destination.finish()
            assert destination.text() == counted(20)


def test_guest_stays_when_its_disk_cannot_be_made_durable(tmp_path):
    """What it wrote must be on the storage before another host reads there."""
    disk, cutter = tmp_path / "disk", cutters.Cutter(tmp_path)
    disk.write_bytes(bytes(64 * KIB))
    with Source(tmp_path, "counting", "--disk", disk, cmdline=COUNTING, wrapper=cutter.wrapper) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            cutter.arm(cutters.FAIL, ("fdatasync", 1), errno.EIO)
            said = refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
            assert f"disk '{disk}': what the guest wrote cannot be made durable: Input/output error" in said
            assert destination.wait(LIMIT) == 1
            check_stayed(source, destination)


def test_guest_stays_when_its_disk_cannot_be_taken_over(tmp_path):
    """Somebody else has locked the disk that the destination was given."""
    disk, other = tmp_path / "disk", tmp_path / "other"
    disk.write_bytes(bytes(64 * KIB))
    other.write_bytes(bytes(64 * KIB))
    with Source(tmp_path, "counting", "--disk", disk, cmdline=COUNTING) as source:
        with Machine("--kernel", source.command_line[source.command_line.index("--kernel") + 1], "--memory", "64M", "--paused",
                     "--disk", other, console=False) as holder:
            holder.qmp.command("query-status")
            with Destination(tmp_path, f"unix:{tmp_path}/socket", "--disk", other) as destination:
                destination.wait_said("waiting for a VM")
                said = refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
                assert f"the destination: disk '{other}' is in use by another process" in said
                assert destination.wait(LIMIT) == 1
                check_stayed(source, destination)


# --- What is refused before anything moves -----------------------------------------------------------


def test_destination_that_lacks_a_device_is_refused(tmp_path):
    """A file that is not there, say."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 * KIB))
    with Source(tmp_path, "counting", "--disk", disk, cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket", "--disk", tmp_path / "gone") as destination:
            destination.wait_said("waiting for a VM")
            said = refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
            assert said.startswith("godwit migrate: the destination refuses: ") and f"'{tmp_path}/gone'" in said
            assert destination.wait(LIMIT) == 1
            check_stayed(source, destination)


@pytest.mark.parametrize("option,said", [
    (("--disk", "nowhere"), "--disk: the source has 0 of them, and this is one more"),
    (("--vsock", "cid=3,path=/nowhere"), "--vsock: the source has 0 of them"),
])
def test_options_that_do_not_fit_are_refused_on_both_sides(tmp_path, option, said):
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket", *option) as destination:
            destination.wait_said("waiting for a VM")
            assert said in refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
            assert destination.wait(LIMIT) == 2
            assert said in destination.stderr()
            check_stayed(source, destination)


def lacking_feature(machine):
    """A feature that no host has: the processor's leaf 1 says all there is."""
    for leaf in machine["cpuid"]:
        if leaf[0] == 1:
            leaf[5] = leaf[6] = 0xffffffff


def newer_state(machine):
    machine["states"][0]["version"] = 99


def another_device(machine):
    machine["states"].append({"name": "0000:00:1f.0/virtio-gpu", "instance": 0, "version": 1})


def missing_device(machine):
    machine["states"].pop()


def other_memory(machine):
    machine["memory"][0]["size"] += 4096


@pytest.mark.parametrize("change,said", [
    (lacking_feature, "the guest uses processor features that this host lacks: CPUID leaf 0x1.0"),
    (newer_state, "machine 0 is in version 99 there, and versions up to 1 are understood here"),
    (another_device, "the guest has 0000:00:1f.0/virtio-gpu, for which there is nothing here"),
    (missing_device, "the guest has no cpu 0, which would be here"),
    (other_memory, "memory 'memory0' at 0x0, "),
], ids=lambda value: getattr(value, "__name__", ""))
def test_machine_that_does_not_fit_the_host_is_refused_by_name(pair, tmp_path, change, said):
    def alter(name, body):
        if name != "CONFIG":
            return body
        machine = json.loads(body)
        change(machine)
        return json.dumps(machine).encode()

    source, destination = pair
    with Proxy(tmp_path / "proxy", tmp_path / "socket", alter=alter) as proxy:
        assert f"the destination refuses: {said}" in refused(source.migrate(f"unix:{tmp_path}/proxy", check=False))
        assert destination.wait(LIMIT) == 1
        assert said in destination.stderr()
        assert "ACCEPT" not in proxy.seen
    check_stayed(source, destination)


def test_nobody_there_is_told(pair, tmp_path):
    source, destination = pair
    assert "cannot connect to unix:/nowhere" in refused(source.migrate("unix:/nowhere", check=False))
    check_stayed(source, destination)


def test_host_without_the_tls_library_is_told_what_to_install(tmp_path):
    """It is loaded when it is wanted: the machine that was started before that stays."""
    tls.make(tmp_path / "tls", "there.example")
    (tmp_path / "libgnutls.so.30").touch()
    with Source(tmp_path, "counting", cmdline=COUNTING, environment={"LD_LIBRARY_PATH": str(tmp_path)}) as source:
        failed = source.migrate(f"unix:{tmp_path}/nobody", "--tls", tmp_path / "tls", "--tls-name", "there.example", check=False)
        assert failed.returncode == 1
        assert "GnuTLS is not usable" in failed.stderr and "install libgnutls.so.30" in failed.stderr
        source.wait_lines(3)


def test_second_migration_is_refused_meanwhile(pair, tmp_path):
    source, destination = pair
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/silent")
        silent.listen()
        source.migrate(f"unix:{tmp_path}/silent", "--no-wait")
        assert "a migration is under way already" in refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
        assert "is being moved" in refused(source.save(tmp_path / "file", check=False))
        source.cli("jobs", source.name, "--cancel", source.job()["id"])
        assert source.wait_job(source.job()["id"])["error"] == "the migration was cancelled"
    source.migrate(f"unix:{tmp_path}/socket")
    check_moved(source, destination)


def test_machine_that_is_still_to_come_cannot_be_resumed_or_saved(pair, tmp_path):
    source, destination = pair
    with Proxy(tmp_path / "proxy", tmp_path / "socket", lambda name, count: None) as proxy:
        source.cli("pause", source.name)
        source.migrate(f"unix:{tmp_path}/proxy", "--bandwidth", "1K", "--no-wait")
        destination.wait_state("RECEIVING")
        assert destination.qmp.command("query-status")["status"] == "inmigrate"
        assert "memory arrives; the guest runs at the source" in destination.cli("status", destination.name).stdout
        assert f"migration  to unix:{tmp_path}/proxy: " in source.cli("status", source.name).stdout
        for command, said in (("resume", "is arriving"), ("reset", "is arriving")):
            assert said in refused(destination.cli(command, destination.name, check=False))
        assert "is being moved" in refused(destination.save(tmp_path / "file", check=False))
        source.cli("jobs", source.name, "--cancel", source.job()["id"])
        assert destination.wait(LIMIT) == 1
    source.cli("resume", source.name)
    check_stayed(source, destination)


# --- What breaks -------------------------------------------------------------------------------------

# In front of or behind which message, the how-manieth of its name, the link is cut while nobody but the source can have the
# guest.
BEFORE_GO = [
    ("CONFIG", 0, "before"), ("CONFIG", 0, "after"), ("ACCEPT", 0, "before"), ("STATE_CREDIT", 0, "before"),
    ("STATE_CREDIT", 0, "after"), ("STATE_CREDIT", 5, "before"), ("ROUND_END", 0, "before"), ("ROUND_END", 0, "after"),
    ("ROUND_END", 1, "before"), ("ROUND_END", 2, "before"), ("SWITCH_BEGIN", 0, "before"), ("LOADED", 0, "before"),
]


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


@pytest.mark.parametrize("step,number,when", BEFORE_GO)
def test_source_goes_on_when_the_link_is_cut_before_go(pair, tmp_path, step, number, when):
    with Cut(pair, tmp_path, at(step, when, number)) as cut:
        refused(cut.result)
        if step == "LOADED":  # a whole copy is never thrown away unasked
            cut.destination.wait_state("HELD")
            settle(cut.destination, "give-up")
        if step != "CONFIG" or when != "before":
            assert cut.destination.wait(LIMIT) == 1
        check_stayed(cut.source, cut.destination)


@pytest.mark.parametrize("limit", [100, 300, 5000, 100_000, 1_000_000])
def test_source_goes_on_when_data_is_cut(pair, tmp_path, limit):
    with Cut(pair, tmp_path, data_limit=limit) as cut:
        refused(cut.result)
        assert cut.destination.wait(LIMIT) == 1
        check_stayed(cut.source, cut.destination)


def test_lost_go_leaves_both_waiting_and_the_guest_goes_on_here(pair, tmp_path):
    with Cut(pair, tmp_path, at("GO", "before")) as cut:
        assert "--resume-here" in refused(cut.result)
        assert cut.source.wait_state("UNDECIDED")["status"] == "running"
        assert cut.source.qmp.command("query-status")["status"] == "paused"
        cut.destination.wait_state("HELD")
        assert "is being moved" in refused(cut.source.cli("resume", cut.source.name, check=False))
        refused(cut.source.cli("jobs", cut.source.name, "--cancel", cut.source.job()["id"], check=False))
        settle(cut.source, "resume-here")
        settle(cut.destination, "give-up")
        assert cut.destination.wait(LIMIT) == 1
        check_stayed(cut.source, cut.destination)


def test_lost_go_leaves_both_waiting_and_the_guest_goes_on_there(pair, tmp_path):
    with Cut(pair, tmp_path, at("GO", "before")) as cut:
        cut.destination.wait_state("HELD")
        settle(cut.destination, "resume-here")
        settle(cut.source, "give-up")
        check_moved(cut.source, cut.destination)


@pytest.mark.parametrize("step", ["DONE", "RUNNING"])
def test_lost_answer_is_settled_by_looking(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before")) as cut:
        refused(cut.result)
        cut.source.wait_state("UNDECIDED")
        cut.destination.wait_state("RUNNING")
        refused(settle(cut.destination, "give-up", check=False))
        settle(cut.source, "give-up")
        check_moved(cut.source, cut.destination)


def test_link_that_is_cut_behind_the_last_word_is_not_missed(pair, tmp_path):
    with Cut(pair, tmp_path, at("RUNNING", "after")) as cut:
        assert cut.result.returncode == 0, cut.result.stderr
        check_moved(cut.source, cut.destination)


def test_both_cannot_be_told_to_run_a_guest_with_a_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 * KIB))
    with Source(tmp_path, "counting", "--disk", disk, cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            with Cut((source, destination), tmp_path, at("GO", "before")) as cut:
                destination.wait_state("HELD")
                settle(destination, "resume-here")
                destination.wait_state("RUNNING")
                assert "is in use by another process" in refused(settle(source, "resume-here", check=False))
                settle(source, "give-up")
                check_moved(source, destination)


# --- Who dies ----------------------------------------------------------------------------------------


def killed(vm):
    def kill():
        vm.process.send_signal(signal.SIGKILL)
        vm.process.wait()
    return kill


@pytest.mark.parametrize("step", ["ACCEPT", "ROUND_END", "SWITCH_BEGIN", "LOADED"])
def test_guest_goes_on_when_the_destination_dies_before_go(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before"), broken=killed(pair[1])) as cut:
        refused(cut.result)
        check_stayed(cut.source, cut.destination)


def test_destination_that_dies_before_go_leaves_an_undecided_source_that_can_go_on(pair, tmp_path):
    with Cut(pair, tmp_path, at("GO", "before"), broken=killed(pair[1])) as cut:
        cut.source.wait_state("UNDECIDED")
        settle(cut.source, "resume-here")
        check_stayed(cut.source, cut.destination)


@pytest.mark.parametrize("step", ["ACCEPT", "ROUND_END", "SWITCH_BEGIN"])
def test_destination_ends_when_the_source_dies_before_all_is_there(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before"), broken=killed(pair[0])) as cut:
        assert cut.destination.wait(LIMIT) == 1
        assert cut.destination.text() == ""


@pytest.mark.parametrize("step", ["LOADED", "GO"])
def test_whole_copy_goes_on_when_the_source_has_died(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before"), broken=killed(pair[0])) as cut:
        cut.destination.wait_state("HELD")
        settle(cut.destination, "resume-here")
        check_goes_on([cut.source, cut.destination])


@pytest.mark.parametrize("step,when", [("DONE", "before"), ("RUNNING", "before"), ("RUNNING", "after")])
def test_guest_goes_on_when_the_source_dies_behind_go(pair, tmp_path, step, when):
    with Cut(pair, tmp_path, at(step, when), broken=killed(pair[0])) as cut:
        check_goes_on([cut.source, cut.destination])


# --- Who changes his mind ----------------------------------------------------------------------------


def test_cancelled_migration_leaves_the_guest_and_a_later_one_succeeds(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        with Destination(tmp_path, f"unix:{tmp_path}/first", log="first") as first:
            first.wait_said("waiting for a VM")
            source.migrate(f"unix:{tmp_path}/first", "--bandwidth", "1K", "--no-wait")
            first.wait_state("RECEIVING")
            source.cli("jobs", source.name, "--cancel", source.job()["id"])
            assert source.wait_job(source.job()["id"])["error"] == "the migration was cancelled"
            assert first.wait(LIMIT) == 1
            assert "the source: the migration was cancelled" in first.stderr()
            assert first.text() == ""
        with Destination(tmp_path, f"unix:{tmp_path}/second") as second:
            second.wait_said("waiting for a VM")
            source.migrate(f"unix:{tmp_path}/second")
            check_moved(source, second)


@pytest.mark.parametrize("end", ["cancelled", "broken"])
def test_descriptors_of_a_migration_that_came_to_nothing_are_closed(tmp_path, end):
    def open_files():
        return len(os.listdir(f"/proc/{source.process.pid}/fd"))

    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        source.wait_lines(1).qmp.command("query-status")  # a connection that stays
        before = open_files()
        pairs = [socket.socketpair() for _ in range(5)]
        mine = [end.fileno() for end, _ in pairs]
        subprocess.run([GODWIT, "migrate", source.name, "fd:" + "+".join(map(str, mine)), "--channels", "4", "--no-wait"],
                       env=source.environment, pass_fds=mine, timeout=LIMIT, check=True)
        for here, _ in pairs:
            here.close()
        pairs[0][1].settimeout(LIMIT)
        assert pairs[0][1].recv(8) == b"GODWMIGR"  # only the first connection is made yet
        if end == "cancelled":
            source.cli("jobs", source.name, "--cancel", source.job()["id"])
        else:
            pairs[0][1].close()
        assert source.wait_job(source.job()["id"])["error"]
        for _, there in pairs[1:]:
            there.settimeout(LIMIT)
            assert there.recv(1) == b""
        source.wait_text(lambda text: open_files() <= before)
        check_goes_on([source])


def test_limits_can_be_changed_meanwhile(pair, tmp_path):
    source, destination = pair
    source.migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K", "--no-wait")
    destination.wait_state("RECEIVING")
    source.qmp.command("godwit-migrate-limit", bandwidth=0, max_downtime=500)
    check_moved(source, destination)


def test_machine_that_moves_can_be_paused_resumed_resized_and_reset(tmp_path):
    with Source(tmp_path, "moving", "--elastic", "id=hot0,max=64M,block=2M", reboot=True, cmdline=f"rounds={ENDLESS}") as source:
        source.wait_lines(2)
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            source.migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K", "--no-wait")
            destination.wait_state("RECEIVING")
            source.cli("pause", source.name)
            assert source.qmp.command("query-status")["status"] == "paused"
            source.cli("resume", source.name)
            goes_on(source)
            source.cli("resize", source.name, "hot0", "32M")
            before = source.text().count("round 1\n")
            source.cli("reset", source.name)
            source.wait_text(lambda text: text.count("round 1\n") > before and not text.endswith("round 1\n"))
            source.qmp.command("godwit-migrate-limit", bandwidth=0)
            assert source.wait(LIMIT) == 0
            destination.wait_lines(3)
            said = (source.text() + destination.text()).rpartition("round 1\n")[2]
            assert follows("round 1\n" + said)
            assert destination.elastic("hot0")["requested-size"] == 32 * MIB


def test_memory_in_a_file_that_both_see_is_refused(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING, memory=f"64M,backing=file:{tmp_path}/ram") as source:
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            said = refused(source.migrate(f"unix:{tmp_path}/socket", check=False))
            assert f"{tmp_path}/ram" in said and "in use" in said
            assert destination.wait(LIMIT) == 1
            check_stayed(source, destination)


def test_destination_can_be_told_that_it_is_not_wanted(pair, tmp_path):
    source, destination = pair
    source.migrate(f"unix:{tmp_path}/socket", "--bandwidth", "1K", "--no-wait")
    destination.wait_state("RECEIVING")
    settle(destination, "give-up")
    assert destination.wait(LIMIT) == 1
    assert "an operator has given it up" in source.wait_job(source.job()["id"])["error"]
    check_stayed(source, destination)


def test_waiting_destination_ends_with_a_signal(tmp_path):
    with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
        destination.wait_said("waiting for a VM")
        destination.process.send_signal(signal.SIGTERM)
        assert destination.wait(60) == 1


@pytest.mark.parametrize("options,said", [
    (("--memory", "64M"), "--memory comes from the source with --incoming"),
    (("--cpus", "2"), "--cpus comes from the source with --incoming"),
])
def test_what_comes_from_the_source_cannot_be_given(tmp_path, options, said):
    with Destination(tmp_path, f"unix:{tmp_path}/socket", *options) as destination:
        assert destination.wait(60) == 2
        assert said in destination.stderr()
