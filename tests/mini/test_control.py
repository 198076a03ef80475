# SPDX-License-Identifier: BSD-2-Clause
"""What an operator does with a running machine, with the program itself. The machine has a mini-guest that never
runs (it is paused) or that takes no part, so these work on any KVM."""

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from support.vm import BUILD, GIB, GODWIT, KIB, MIB, Machine


def machine(*arguments, **options):
    return Machine("--kernel", BUILD / "tests/mini/reset.elf", "--memory", "32M", "--elastic", "id=hot0,max=1G",
                   *arguments, console=False, **options)


@pytest.fixture
def paused():
    with machine("--paused") as vm:
        vm.qmp.command("query-status")  # it answers
        yield vm


def state(vm):
    return vm.qmp.command("query-status")["status"]


def refused(vm, *arguments):
    result = vm.cli(*arguments, check=False)
    assert result.returncode == 1, result.stderr
    return result.stderr.strip()


def test_list_shows_it(paused):
    heading, line = paused.cli("list").stdout.splitlines()
    assert heading.split() == ["NAME", "STATUS", "PID", "CPUS", "BOOT", "PLUGGED", "MAXIMUM", "RESIDENT"]
    assert line.split()[:4] == [paused.name, "paused", str(paused.process.pid), "1"]
    listed = json.loads(paused.cli("list", "--json").stdout)
    assert [vm["name"] for vm in listed] == [paused.name]
    assert listed[0]["memory"]["boot"] == 32 * MIB


def test_name_is_used_once(paused):
    second = subprocess.run(paused.command_line, env=paused.environment, stdin=subprocess.DEVNULL, capture_output=True,
                            text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"a VM named '{paused.name}' is running" in second.stderr
    assert state(paused) == "paused"


def test_killed_machine_frees_its_name(paused):
    paused.process.kill()
    paused.process.wait()
    assert paused.cli("list", "--json").stdout == "[]\n"
    (paused.directory / "serial").unlink()
    again = subprocess.Popen(paused.command_line, env=paused.environment, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while paused.cli("status", paused.name, check=False).returncode:
            assert again.poll() is None and time.monotonic() < end
            time.sleep(0.1)
    finally:
        again.kill()
        again.wait()


def test_status_names_the_devices(paused):
    text = paused.cli("status", paused.name).stdout
    assert "status     paused" in text
    assert "virtio-mem" in text
    answer = json.loads(paused.cli("status", paused.name, "--json").stdout)
    assert answer["running"] is False
    assert {device["type"] for device in answer["devices"]} >= {"virtio-mem", "virtio-rng"}


def test_memory_shows_the_map(paused):
    text = paused.cli("memory", paused.name).stdout
    assert "KVM slots" in text and "hot0" in text
    answer = json.loads(paused.cli("memory", paused.name, "--json").stdout)
    boot, elastic = answer["regions"]
    assert (boot["kind"], boot["address"], boot["size"]) == ("boot", 0, 32 * MIB)
    assert (elastic["id"], elastic["size"], elastic["plugged"], elastic["block-size"]) == ("hot0", GIB, 0, 2 * MIB)
    assert answer["slots"]["maximum"] > 0


def test_vmm_itself_holds_little(paused):
    vmm = json.loads(paused.cli("memory", paused.name, "--json").stdout)["vmm"]
    assert 100 * KIB < vmm["private"] + vmm["page-tables"] < 3 * MIB


def test_pause_and_resume():
    with machine() as vm:
        assert state(vm) == "running"
        vm.cli("pause", vm.name)
        assert state(vm) == "paused"
        vm.cli("pause", vm.name)  # nothing more to do
        vm.cli("resume", vm.name)
        assert state(vm) == "running"


def test_reset_tells_everybody(paused):
    paused.cli("reset", paused.name)
    assert paused.qmp.event("RESET") == {"guest": False, "reason": "host-qmp-system-reset"}
    assert state(paused) == "paused"


def test_resize_returns_a_job_at_once(paused):
    assert paused.cli("resize", paused.name, "hot0", "64M").stdout == "resize-hot0-1\n"
    job, = json.loads(paused.cli("jobs", paused.name, "--json").stdout)
    assert (job["status"], job["requested"], job["plugged"]) == ("running", 64 * MIB, 0)
    assert job["reason"] == "no-driver"


def test_newer_resize_replaces_the_job(paused):
    paused.cli("resize", paused.name, "hot0", "64M")
    paused.cli("resize", paused.name, "hot0", "128M")
    first, second = json.loads(paused.cli("jobs", paused.name, "--json").stdout)
    assert first["status"] == "concluded" and "replaced" in first["error"]
    assert second["status"] == "running"


def test_cancelled_resize_keeps_what_is_plugged(paused):
    job = paused.cli("resize", paused.name, "hot0", "64M").stdout.strip()
    paused.cli("jobs", paused.name, "--cancel", job)
    assert paused.elastic("hot0")["requested-size"] == 0
    listed, = json.loads(paused.cli("jobs", paused.name, "--json").stdout)
    assert listed["error"] == "cancelled"
    paused.cli("jobs", paused.name, "--dismiss", job)
    assert paused.cli("jobs", paused.name, "--json").stdout == "[]\n"


def test_waiting_for_a_resize_ends_with_the_reason(paused):
    line = refused(paused, "resize", paused.name, "hot0", "64M", "--wait", "--timeout", "0.5")
    assert line.startswith("godwit resize: hot0 has 0 B of 64.0 MiB after 0.5 seconds: no-driver: "
                           "the guest has not loaded the virtio_mem driver")


def test_waiting_for_the_present_size_is_done(paused):
    assert paused.cli("resize", paused.name, "hot0", "0", "--wait").stdout == ""


@pytest.mark.parametrize("size, message", [("1M", "multiple"), ("2G", "maximum")])
def test_impossible_size_is_refused(paused, size, message):
    assert message in refused(paused, "resize", paused.name, "hot0", size)
    assert paused.cli("jobs", paused.name, "--json").stdout == "[]\n"


def test_unknown_device_is_refused_with_the_known(paused):
    assert refused(paused, "resize", paused.name, "hot9", "0") == (
        "godwit resize: there is no elastic device 'hot9': this machine has hot0")


def test_qmp_sends_numbers_as_numbers(paused):
    paused.cli("qmp", paused.name, "qom-set", "path=/machine/peripheral/hot0", "property=requested-size",
               "value=67108864")
    assert paused.elastic("hot0")["requested-size"] == 64 * MIB
    assert refused(paused, "qmp", paused.name, "no-such-command") == (
        "godwit qmp: The command no-such-command has not been found")


def test_descriptors_go_with_their_connection(paused):
    """Those that got a name, and those that did not."""
    folder = Path(f"/proc/{paused.process.pid}/fd")
    paused.qmp.command("query-status")  # a connection that stays
    before = len(list(folder.iterdir()))
    with socket.socket(socket.AF_UNIX) as client, open(os.devnull) as one, open(os.devnull) as other:
        client.connect(str(paused.directory / f"{paused.name}.sock"))
        answers = client.makefile()
        client.sendall(b'{"execute": "qmp_capabilities"}\n')
        socket.send_fds(client, [b'{"execute": "getfd", "arguments": {"fdname": "a"}}\n'],
                        [one.fileno(), other.fileno()])
        assert [list(json.loads(answers.readline())) for _ in range(3)] == [["QMP"], ["return"], ["return"]]
        assert len(list(folder.iterdir())) == before + 3
        answers.close()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) != before:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_processors_have_threads(paused):
    processor, = paused.qmp.command("query-cpus-fast")
    assert os.path.exists(f"/proc/{paused.process.pid}/task/{processor['thread-id']}")


def test_events_stream_until_the_end(paused):
    with subprocess.Popen([GODWIT, "events", paused.name, "--json"], env=paused.environment, text=True,
                          stdout=subprocess.PIPE) as events:
        end = time.monotonic() + 60
        while not select.select([events.stdout], [], [], 0.2)[0]:  # until it listens
            assert time.monotonic() < end
            paused.cli("reset", paused.name)
        assert json.loads(events.stdout.readline())["event"] == "RESET"
        paused.cli("stop", paused.name, "--force")
        assert json.loads(events.stdout.readlines()[-1])["event"] == "SHUTDOWN"
        assert events.wait(60) == 0


def test_stop_of_a_paused_machine_says_what_to_do(paused):
    assert "cannot react to its power button" in refused(paused, "stop", paused.name)
    paused.cli("stop", paused.name, "--force")
    assert paused.wait() == 0


def test_stop_that_the_guest_ignores_ends_with_its_time():
    with machine() as vm:
        assert state(vm) == "running"
        assert "still runs after 0.5 seconds" in refused(vm, "stop", vm.name, "--timeout", "0.5")
        assert vm.qmp.event("POWERDOWN") == {}


def test_nothing_is_left_after_the_end(paused):
    paused.cli("stop", paused.name, "--force")
    assert paused.wait() == 0
    assert not list(paused.directory.glob("*.sock")) and not list(paused.directory.glob("*.pid"))


def test_second_signal_ends_a_running_machine():
    with machine() as vm:
        vm.qmp.command("query-status")
        vm.process.send_signal(signal.SIGTERM)
        vm.qmp.event("POWERDOWN")
        assert state(vm) == "running"
        vm.process.send_signal(signal.SIGTERM)
        assert vm.qmp.event("SHUTDOWN") == {"guest": False, "reason": "host-signal"}
        assert vm.wait() == 0


def test_one_signal_ends_a_paused_machine(paused):
    paused.process.send_signal(signal.SIGINT)
    assert paused.wait() == 0


def test_pid_file_is_there_while_it_runs(tmp_path):
    with machine("--paused", "--pid-file", tmp_path / "pid") as vm:
        vm.qmp.command("query-status")
        end = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert int((tmp_path / "pid").read_text()) == vm.process.pid
        vm.cli("stop", vm.name, "--force")
        vm.wait()
    assert not (tmp_path / "pid").exists()


def test_top_once_shows_machine_and_device(paused):
    text = paused.cli("top", "--once").stdout
    assert paused.name in text and "hot0" in text and "1 VM," in text
    listed, = json.loads(paused.cli("top", "--json").stdout)
    assert listed["cpu-percent"] >= 0


def test_top_is_live_and_quits_at_a_key(paused):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(GODWIT, [GODWIT, "top", "--interval", "0.2"], paused.environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    text, frames, end = "", 0, time.monotonic() + 60
    while frames < 3:
        assert time.monotonic() < end, text
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 65536).decode()
        frames = text.count("godwit top ")
    os.write(terminal, b"q")
    assert paused.name in text and "hot0" in text
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        text += data.decode()
    assert os.waitpid(pid, 0)[1] == 0
    assert text.endswith("\x1b[?1049l")  # the terminal is as it was
