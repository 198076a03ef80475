# SPDX-License-Identifier: BSD-2-Clause
"""A machine that goes on in a new godwit, with its name, sockets, disks and whoever waits for its process; and that stays as it
was when the new one does not make it."""

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from support.vm import GODWIT, MIB, REPOSITORY, Machine
from mini_machine import ENDLESS, GUESTS, LIMIT, Original, Restored, follows, goes_on, refused

COUNTING = f"pages=512 steps={ENDLESS}"


class Updated(Original):
    """A counting guest, in the process that was started and in those that follow it."""

    def __init__(self, folder, *arguments, guest="counting", cmdline=COUNTING, **options):
        super().__init__(folder, guest, "--log=info", *arguments, cmdline=cmdline, **options)

    def pid(self):
        """Of the process that has the machine."""
        return int((self.directory / f"{self.name}.pid").read_text())

    def update(self, *options, check=True):
        result = self.cli("update", self.name, *options, check=check, limit=LIMIT)
        self._qmp = None
        return result


@pytest.fixture
def vm(tmp_path):
    with Updated(tmp_path) as vm:
        vm.wait_lines(2)
        yield vm


def check_went_on(vm, before):
    """Another process has the machine, under the one that was started, and the guest has noticed nothing."""
    assert vm.pid() not in (before, vm.process.pid)
    goes_on(vm, 3)
    assert vm.text().startswith("step 1\n")


def check_stayed(vm, before):
    assert vm.pid() == before
    vm._qmp = None
    assert vm.qmp.command("query-status")["running"]
    goes_on(vm, 3)
    assert vm.text().startswith("step 1\n")


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_guest_goes_on_in_another_process(vm):
    before = vm.pid()
    report = json.loads(vm.update("--json").stdout)
    assert report["status"] == "completed"
    assert report["pid"] == vm.pid()
    assert (report["pages"], report["zero-pages"]) == (0, 0)
    downtime = report["downtime"]
    assert all(downtime[f"{part}-ns"] > 0 for part in ("stop", "states", "pages", "load", "confirm", "resume", "total"))
    check_went_on(vm, before)


def test_command_tells_what_it_did(vm):
    said = vm.update().stdout
    assert said.startswith(f"{vm.name} goes on in process {vm.pid()}, ") and "the guest stood still for" in said


def test_it_is_updated_again_and_again(vm):
    pids = [vm.pid()]
    for _ in range(3):
        vm.update()
        pids.append(vm.pid())
        goes_on(vm)
        # However often: the process that was started, and the one that has the machine.
        end = time.monotonic() + 60
        while children(vm.process.pid) != pids[-1:]:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert len(set(pids)) == 4
    assert vm.text().startswith("step 1\n")


# --- Who waits for the process ----------------------------------------------------------------------


def test_first_process_ends_with_the_machine(vm):
    vm.update()
    vm.cli("stop", vm.name, "--force")
    assert vm.wait(60) == 0
    assert list(vm.directory.glob("*.sock")) + list(vm.directory.glob("*.pid")) == []


@pytest.mark.parametrize("updates", [1, 2])
def test_first_process_has_the_status_of_the_last_one(vm, updates):
    for _ in range(updates):
        vm.update()
    os.kill(vm.pid(), signal.SIGKILL)
    assert vm.wait(60) == -signal.SIGKILL


def test_machine_ends_when_the_first_process_is_killed(vm):
    vm.update()
    pid = vm.pid()
    vm.process.kill()
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_signals_are_passed_on_and_one_that_comes_both_ways_counts_once(vm):
    vm.update()
    powered = "pressing the guest's power button"
    for pid in (vm.process.pid, vm.pid()):  # as a terminal, or the end of a control group, sends it
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 60
    while powered not in vm.stderr():
        assert time.monotonic() < end
        time.sleep(0.02)
    goes_on(vm, 3)
    assert vm.stderr().count(powered) == 1
    os.kill(vm.process.pid, signal.SIGTERM)
    assert vm.wait(60) == 0


def test_pid_file_is_that_of_the_first_process(tmp_path):
    with Updated(tmp_path, "--pid-file", tmp_path / "pid") as vm:
        vm.wait_lines(2)
        vm.update()
        assert int((tmp_path / "pid").read_text()) == vm.process.pid
        vm.cli("stop", vm.name, "--force")
        vm.wait(60)
        assert not (tmp_path / "pid").exists()


# --- What goes along --------------------------------------------------------------------------------


def test_clients_of_the_control_socket_find_the_new_process_there(vm):
    number = (vm.directory / f"{vm.name}.sock").stat().st_ino
    vm.update()
    assert (vm.directory / f"{vm.name}.sock").stat().st_ino == number
    assert vm.qmp.command("godwit-statistics")["pid"] == vm.pid()
    assert f"{vm.name} " in vm.cli("list").stdout and str(vm.pid()) in vm.cli("list").stdout


def serial_machine(**options):
    return Machine("--kernel", GUESTS / "counting.elf", "--cmdline", f"mini {COUNTING}", "--memory", "64M", console=False, **options)


def test_client_of_the_serial_port_stays_connected(tmp_path):
    with serial_machine() as vm:
        vm.serial.expect("step 2\r?\n", LIMIT)
        vm.cli("update", vm.name, limit=LIMIT)
        count = int(vm.serial.expect(r"step (\d+)\r?\n", LIMIT).group(1))
        vm.serial.expect(f"step {count + 3}\r?\n", LIMIT)
        heard = vm.serial.heard.replace("\r", "")
        assert heard.startswith("step 1\n") and follows(heard)


def test_output_that_nobody_has_heard_goes_along(tmp_path):
    with serial_machine() as vm:
        end = time.monotonic() + LIMIT
        while vm.qmp.command("godwit-statistics")["cpus"][0]["pio-exits"] < 40:
            assert time.monotonic() < end
            time.sleep(0.02)
        vm.cli("update", vm.name, limit=LIMIT)
        vm.serial.expect("step 20\r?\n", LIMIT)
        heard = vm.serial.heard.replace("\r", "")
        assert heard.startswith("step 1\n") and follows(heard)


def test_disk_stays_locked_and_is_the_same_open_file(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 * 1024))
    with Updated(tmp_path, "--disk", disk) as vm:
        vm.wait_lines(2)
        number = disk.stat().st_ino
        disk.rename(tmp_path / "moved")
        disk.write_bytes(bytes(64 * 1024))
        vm.update()
        opened = {os.stat(f"/proc/{vm.pid()}/fd/{fd}").st_ino for fd in os.listdir(f"/proc/{vm.pid()}/fd")}
        assert number in opened and disk.stat().st_ino not in opened
        second = ("run", "--kernel", GUESTS / "counting.elf", "--memory", "64M", "--disk", tmp_path / "moved", "--name", "second")
        assert "is in use by another process" in refused(vm.cli(*second, check=False))
        vm.update("--binary", "/bin/false", check=False)
        assert "is in use by another process" in refused(vm.cli(*second, check=False))
        goes_on(vm)


def test_disk_works_while_it_is_updated(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 * MIB))
    with Updated(tmp_path, "--disk", disk, "--elastic", "id=hot0,max=1G,size=32M,block=2M", guest="disk",
                 cmdline=f"rounds={ENDLESS} elastic=1") as vm:
        for _ in range(3):
            vm.wait_text(lambda text, before=len(vm.text()): len(text) > before)
            vm.update()
        vm.wait_text(lambda text, before=len(vm.text()): len(text) > before)


def tap_descriptors(pid):
    found = 0
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            found += "iff:\tgodwit0" in Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
        except FileNotFoundError:
            pass
    return found


@pytest.mark.parametrize("queues", [1, 2])
def test_tap_interface_goes_along(tmp_path, queues):
    if subprocess.run(["unshare", "--net", "test", "-w", "/dev/net/tun"], capture_output=True).returncode:
        pytest.skip("no network namespaces, or no tap interfaces")
    with Updated(tmp_path, "--net", f"tap:godwit0,queues={queues}", wrapper=("unshare", "--net")) as vm:
        vm.wait_lines(2)
        for _ in range(2):
            assert tap_descriptors(vm.pid()) == queues
            vm.update()
        assert tap_descriptors(vm.pid()) == queues
        goes_on(vm)


def call(path):
    """Until the guest's program takes a call at its port."""
    end = time.monotonic() + LIMIT
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LIMIT)
            client.connect(str(path))
            try:
                client.sendall(b"CONNECT 1024\n")
                if client.recv(64)[:3] == b"OK ":
                    return
            except OSError:
                pass  # nobody in the guest yet
        assert time.monotonic() < end
        time.sleep(0.05)


def test_socket_of_the_guest_goes_along(tmp_path):
    with Updated(tmp_path, "--vsock", f"cid=3,path={tmp_path}/vsock", guest="answering", cmdline="") as vm:
        vm.qmp.command("query-status")  # it has started
        number = (tmp_path / "vsock").stat().st_ino
        for _ in range(2):
            call(tmp_path / "vsock")
            vm.update()
        call(tmp_path / "vsock")
        assert (tmp_path / "vsock").stat().st_ino == number
        vm.cli("stop", vm.name, "--force")
        vm.wait(60)
        assert not (tmp_path / "vsock").exists()


def test_terminal_goes_along_and_is_restored_at_the_end(tmp_path):
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    environment = dict(os.environ, GODWIT_RUN_DIR=str(tmp_path))

    def lead():
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    command = [GODWIT, "run", "--name", "tty", "--kernel", GUESTS / "counting.elf", "--cmdline", f"mini {COUNTING}",
               "--memory", "64M", "--serial", "tty"]
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lead)
    heard = b""

    def hear(text):
        nonlocal heard
        end = time.monotonic() + LIMIT
        while text not in heard:
            assert time.monotonic() < end, heard
            if select.select([ours], [], [], 1)[0]:
                heard += os.read(ours, 4096)

    try:
        hear(b"step 2")
        assert termios.tcgetattr(theirs) != before
        subprocess.run([GODWIT, "update", "tty"], env=environment, check=True, timeout=LIMIT)
        count = int(heard.split(b"step ")[-1].split()[0])
        hear(b"step %d\r\n" % (count + 5))
        assert termios.tcgetattr(theirs) != before
        lines = heard.replace(b"\r", b"").decode().split("\n")[:-1]
        assert lines == [f"step {n}" for n in range(1, len(lines) + 1)]
        os.write(ours, b"\x01x")  # Ctrl-A x
        assert process.wait(60) == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("backing", ["memfd", "hugetlb", "prealloc", "tmpfs", "file"])
def test_every_shared_backing_goes(tmp_path, backing, backing_of):
    with Updated(tmp_path, memory=f"64M,{backing_of(backing)}") as vm:
        vm.wait_lines(2)
        before = vm.pid()
        vm.update()
        check_went_on(vm, before)


def test_elastic_memory_goes_along_and_can_be_resized(tmp_path):
    with Updated(tmp_path, "--elastic", "id=hot0,max=1G,size=16M,block=2M", cmdline=f"pages=256 elastic=4 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        resident = vm.region_resident("hot0")
        vm.update()
        assert vm.elastic("hot0")["size"] == 8 * MIB
        assert vm.region_resident("hot0") == resident
        vm.request("hot0", 32 * MIB)
        assert vm.elastic("hot0")["requested-size"] == 32 * MIB
        goes_on(vm, 3)


def test_paused_machine_stays_paused(vm):
    vm.cli("pause", vm.name)
    before = vm.pid()
    vm.update()
    assert vm.pid() != before
    assert vm.qmp.command("query-status") == {"status": "paused", "running": False}
    vm.cli("resume", vm.name)
    check_went_on(vm, before)


def test_restored_machine_is_updated(tmp_path):
    with Original(tmp_path, "counting", cmdline=COUNTING) as source:
        source.wait_lines(2)
        source.save(tmp_path / "file")
    with Restored(tmp_path, tmp_path / "file") as vm:
        vm.wait_lines(1)
        vm.cli("update", vm.name, limit=LIMIT)
        goes_on(vm)


# --- What is refused --------------------------------------------------------------------------------


def test_anonymous_memory_is_refused(tmp_path):
    with Updated(tmp_path, memory="64M,backing=anon") as vm:
        vm.wait_lines(2)
        before = vm.pid()
        assert "memory 'memory0' is anonymous, which cannot be handed to another process" in refused(vm.update(check=False))
        check_stayed(vm, before)


def test_a_clone_is_refused(tmp_path):
    with Original(tmp_path, "counting", cmdline=COUNTING) as source:
        source.wait_lines(2)
        source.save(tmp_path / "file")
    with Restored(tmp_path, tmp_path / "file", "--clone") as clone:
        clone.wait_lines(1)
        assert "memory 'memory0' is a clone's" in refused(clone.cli("update", clone.name, check=False))
        goes_on(clone)


def test_machine_that_is_saved_is_refused(vm, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "pipe", "r+b", buffering=0) as pipe:  # which nobody reads
        subprocess.Popen([GODWIT, "save", vm.name, tmp_path / "pipe", "--live"], env=vm.environment,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while not [job for job in vm.qmp.command("query-jobs") if job["type"] == "save"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert "a save is under way" in refused(vm.update(check=False))
        pipe.flush()


def test_device_of_a_back_end_is_refused(tmp_path):
    with Updated(tmp_path, "--disk", f"vhost-user:{tmp_path}/none") as vm:
        vm.qmp.command("query-status")  # it has started
        assert f"the back-end at {tmp_path}/none, whose connection is not handed over" in refused(vm.update(check=False))


def test_machine_that_moves_is_refused(vm, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        vm.cli("migrate", vm.name, f"unix:{tmp_path}/socket", "--no-wait")
        assert "a migration is under way already" in refused(vm.update(check=False))


def test_job_that_runs_is_refused_by_name(tmp_path):
    with Updated(tmp_path, "--elastic", "id=hot0,max=1G,block=2M") as vm:
        vm.wait_lines(2)
        job = vm.qmp.command("godwit-resize", id="hot0", size=16 * MIB)["job"]
        assert f"job '{job}' (resize) is under way: wait for it or cancel it" in refused(vm.update(check=False))


def test_take_over_is_not_for_people(vm):
    alone = vm.cli("run", "--take-over", "3", check=False)
    assert alone.returncode == 2 and "--take-over is for --incoming" in alone.stderr
    said = refused(vm.cli("run", "--incoming", f"unix:{vm.directory}/x", "--take-over", "77", check=False))
    assert "--take-over: " in said


# --- What breaks ------------------------------------------------------------------------------------


def script(folder, text):
    path = folder / "new-godwit"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_program_that_is_not_there_is_refused(vm, tmp_path):
    before = vm.pid()
    assert "No such file" in refused(vm.update("--binary", tmp_path / "none", check=False))
    answer = vm.qmp.raw("godwit-update", binary=f"{tmp_path}/none")
    assert answer["error"]["desc"] == f"godwit-update: cannot start '{tmp_path}/none': No such file or directory"
    assert "is not an absolute path" in vm.qmp.raw("godwit-update", binary="godwit")["error"]["desc"]
    check_stayed(vm, before)
    vm.update()
    check_went_on(vm, before)


@pytest.mark.parametrize("text,said", [
    ("exit 3", "it ended with status 3"),
    ("kill -SEGV $$", "it was ended by signal 11"),
    (f"exec {GODWIT} \"$@\" --no-such-option", "it ended with status 2"),
    (f"exec {GODWIT} \"$@\" --memory 1G", "it ended with status 2"),
])
def test_program_that_ends_at_once_leaves_everything_as_it_was(vm, tmp_path, text, said):
    before = vm.pid()
    told = refused(vm.update("--binary", script(tmp_path, text), check=False))
    assert f"'{tmp_path}/new-godwit' did not take over, and the VM runs on as it was: " in told and said in told
    check_stayed(vm, before)
    vm.update()
    check_went_on(vm, before)


def test_program_that_does_nothing_can_be_cancelled(vm, tmp_path):
    before = vm.pid()
    vm.qmp.command("godwit-update", binary=str(script(tmp_path, "exec sleep 1000")), job_id="try")
    vm.qmp.command("job-cancel", id="try")
    assert vm.qmp.event("MIGRATION")["status"] == "failed"
    check_stayed(vm, before)
    assert children(before) == []


def test_interrupted_command_cancels_the_update(vm, tmp_path):
    before = vm.pid()
    command = subprocess.Popen([GODWIT, "update", vm.name, "--binary", script(tmp_path, "exec sleep 1000")], env=vm.environment,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not children(before):
        assert time.monotonic() < end
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    assert "the migration was cancelled" in command.communicate(timeout=LIMIT)[1]
    assert command.returncode == 1
    check_stayed(vm, before)


def test_machine_may_end_meanwhile(vm, tmp_path):
    vm.qmp.command("godwit-update", binary=str(script(tmp_path, "exec sleep 1000")))
    vm.cli("stop", vm.name, "--force")
    assert vm.wait(60) == 0


def breaking(folder, *how):
    return script(folder, f"exec {sys.executable} {REPOSITORY}/tests/support/update_proxy.py {' '.join(how)} {GODWIT} \"$@\"")


def test_program_that_does_not_understand_the_machine_is_refused(vm, tmp_path):
    before = vm.pid()
    told = refused(vm.update("--binary", breaking(tmp_path, "version", "CONFIG", "-"), check=False))
    assert "the destination refuses: the description of the machine: version 9, and 1 and 2 are understood" in told
    check_stayed(vm, before)


# Behind LOADED the old process has given everything away, and takes it back.
@pytest.mark.parametrize("what", ["kill", "cut"])
@pytest.mark.parametrize("step", ["CONFIG", "ACCEPT", "SWITCH_BEGIN", "ROUND_END", "LOADED", "GO"])
def test_guest_stays_when_the_new_process_breaks(tmp_path, what, step):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 * 1024))
    with Updated(tmp_path, "--disk", disk, "--console", f"unix:{tmp_path}/console", "--vsock", f"cid=3,path={tmp_path}/vsock") as vm:
        vm.wait_lines(2)
        before = vm.pid()
        refused(vm.update("--binary", breaking(tmp_path, what, step, "before"), check=False))
        check_stayed(vm, before)
        second = vm.cli("run", "--kernel", GUESTS / "counting.elf", "--memory", "64M", "--disk", disk, "--name", "second", check=False)
        assert "is in use by another process" in refused(second)
        for name in ("console", "vsock"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / name))
        vm.update()
        check_went_on(vm, before)


@pytest.mark.parametrize("step", ["CONFIG", "ACCEPT", "SWITCH_BEGIN", "ROUND_END"])
def test_guest_stays_when_the_connection_breaks_behind_a_word(vm, tmp_path, step):
    before = vm.pid()
    refused(vm.update("--binary", breaking(tmp_path, "cut", step, "after"), check=False))
    check_stayed(vm, before)
    vm.update()
    check_went_on(vm, before)


@pytest.mark.parametrize("step", ["LOADED", "GO"])
def test_guest_goes_on_in_one_of_them_when_the_connection_breaks_behind_the_last_words(vm, tmp_path, step):
    """The other way it may work for a moment longer."""
    before = vm.pid()
    if vm.update("--binary", breaking(tmp_path, "cut", step, "after"), check=False).returncode:
        check_stayed(vm, before)
    else:
        check_went_on(vm, before)
    vm.update()
    check_went_on(vm, before)


@pytest.mark.parametrize("step", ["DONE", "RUNNING"])
def test_guest_goes_on_there_when_its_word_is_lost(vm, tmp_path, step):
    before = vm.pid()
    vm.update("--binary", breaking(tmp_path, "cut", step, "before"))
    check_went_on(vm, before)


def test_guest_goes_on_there_however_long_each_word_takes(vm, tmp_path):
    before = vm.pid()
    vm.update("--binary", breaking(tmp_path, "delay", "-", "-"))
    check_went_on(vm, before)


def test_old_process_that_dies_takes_the_new_one_along(vm, tmp_path):
    pids = tmp_path / "pids"
    vm.qmp.command("godwit-update", binary=str(script(tmp_path, f"echo $$ >{pids}; exec {GODWIT} \"$@\" --paused --log debug")))
    vm.process.kill()
    end = time.monotonic() + 60
    while not pids.exists() or not pids.read_text().strip():
        assert time.monotonic() < end
        time.sleep(0.02)
    pid = int(pids.read_text())
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.02)
