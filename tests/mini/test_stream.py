# SPDX-License-Identifier: BSD-2-Clause
"""Snapshots as sequential streams: into commands, pipes and descriptors, and back from them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from support.vm import BUILD, GODWIT, Machine

GUESTS = BUILD / "tests/mini"
LIMIT = 240  # an emulated processor executes a million instructions a second
ROUNDS = 120

needs_zstd = pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed")


class Original(Machine):
    """A guest that checks everything that a processor keeps, round after round, and says so."""

    def __init__(self, folder, *arguments, rounds=20000):
        self.log = Path(folder) / "original.log"
        super().__init__("--kernel", GUESTS / "moving.elf", "--cmdline", f"mini rounds={rounds}", "--memory", "64M",
                         "--on-crash=exit", "--serial", f"file:{self.log}", *arguments, serial=False, console=False)
        end = time.monotonic() + LIMIT
        while not self.log.exists() or "round 2" not in self.log.read_text():
            self.check_alive()
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def vm(tmp_path):
    with Original(tmp_path) as vm:
        yield vm


@pytest.fixture
def stream(tmp_path):
    """Of a guest that has some rounds to go."""
    with Original(tmp_path, rounds=ROUNDS) as vm:
        vm.qmp.command("stop")  # it might come to its end meanwhile
        file = tmp_path / "stream"
        vm.cli("save", vm.name, f"exec:cat > {file}", limit=LIMIT)
        return file


class Restored(Machine):
    COMMAND = ("restore",)

    def __init__(self, folder, source, *arguments, **options):
        self.log = Path(folder) / "restored.log"
        super().__init__(source, "--serial", f"file:{self.log}", *arguments, serial=False, console=False, **options)

    def finish(self):
        """To the guest's end, every round of which followed the one before."""
        assert self.wait(LIMIT) == 0, self.stderr()
        lines = self.log.read_text().split()
        assert lines[-1] == "done" and lines[-2] == str(ROUNDS)
        numbers = [int(word) for word in lines if word.isdigit()]
        assert numbers == list(range(numbers[0], ROUNDS + 1)) and numbers[0] > 1


def started(vm, *arguments, **options):
    return subprocess.Popen([GODWIT, *map(str, arguments)], env=vm.environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)


def refused(vm, *arguments, status=1):
    result = vm.cli(*arguments, check=False)
    assert result.returncode == status, result.stderr
    return result.stderr.strip()


def blocks(process, number):
    """Whether a signal would have to wait: who waits for a command wants to hear of it in his own time."""
    mask, = re.findall(r"^SigBlk:\t(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def still_runs(vm):
    before = vm.log.read_text().count("\n")
    assert vm.qmp.command("query-status")["status"] == "running"
    end = time.monotonic() + LIMIT
    while vm.log.read_text().count("\n") == before:
        assert time.monotonic() < end
        time.sleep(0.02)


# --- There and back -----------------------------------------------------------------------------------


def test_through_a_command(tmp_path, stream):
    with Restored(tmp_path, f"exec:cat {stream}") as vm:
        vm.finish()


def test_from_a_file_that_holds_a_stream(tmp_path, stream):
    with Restored(tmp_path, stream) as vm:
        vm.finish()


def test_from_a_named_pipe(tmp_path, stream):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Restored(tmp_path, fifo) as vm:
        fifo.write_bytes(stream.read_bytes())
        vm.finish()


@needs_zstd
def test_compressed(tmp_path):
    file = tmp_path / "snapshot.zst"
    with Original(tmp_path, rounds=ROUNDS) as vm:
        vm.qmp.command("stop")
        vm.cli("save", vm.name, f"exec:zstd -q -o {file}", limit=LIMIT)
    with Restored(tmp_path, f"exec:zstd -q -dc {file}") as vm:
        vm.finish()


def test_of_a_running_guest(tmp_path):
    file = tmp_path / "stream"
    with Original(tmp_path, rounds=ROUNDS) as vm:
        vm.cli("save", vm.name, f"exec:cat > {file}", "--live", limit=LIMIT)
    with Restored(tmp_path, file) as vm:
        vm.finish()


def test_into_a_named_pipe(tmp_path, vm):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    save = started(vm, "save", vm.name, fifo)
    (tmp_path / "stream").write_bytes(fifo.read_bytes())
    assert save.wait(LIMIT) == 0
    vm.cli("snapshot", "convert", tmp_path / "stream", tmp_path / "file")
    still_runs(vm)


def test_into_a_descriptor(tmp_path, vm):
    with open(tmp_path / "stream", "wb") as file:
        save = started(vm, "save", vm.name, f"fd:{file.fileno()}", pass_fds=[file.fileno()])
        assert save.wait(LIMIT) == 0
    vm.cli("snapshot", "convert", tmp_path / "stream", tmp_path / "file")


def test_into_standard_output_goes_nothing_else(tmp_path, vm):
    with open(tmp_path / "stream", "wb") as file:
        done = subprocess.run([GODWIT, "save", vm.name, "/dev/stdout"], env=vm.environment, stdout=file,
                              stderr=subprocess.PIPE, timeout=LIMIT, check=True)
    assert b"saved to /dev/stdout" in done.stderr
    vm.cli("snapshot", "convert", tmp_path / "stream", tmp_path / "file")


def test_converted_it_is_a_file_like_others(tmp_path, stream, vm):
    vm.cli("snapshot", "convert", f"exec:cat {stream}", tmp_path / "file")
    assert "is whole" in vm.cli("snapshot", "verify", tmp_path / "file").stdout
    with Restored(tmp_path, tmp_path / "file", "--lazy") as restored:
        restored.finish()


# --- Failures -----------------------------------------------------------------------------------------


def test_what_needs_a_file_is_refused_before_anything_starts(tmp_path, vm):
    target = f"exec:touch {tmp_path / 'started'}"
    assert "--direct needs a file" in refused(vm, "save", vm.name, target, "--direct", status=2)
    assert "--base needs a file" in refused(vm, "save", vm.name, target, "--base", tmp_path / "x", status=2)
    assert "--channels 2 need a file" in refused(vm, "save", vm.name, target, "--channels", "2", status=2)
    assert "--no-wait" in refused(vm, "save", vm.name, target, "--no-wait", status=2)
    assert not (tmp_path / "started").exists() and not vm.qmp.command("query-jobs")


def test_restore_options_that_need_a_file(vm, stream):
    for option in ("--lazy", "--clone", "--direct"):
        assert f"{option} needs a file" in refused(vm, "restore", stream, option, status=2)
    assert "--base needs a file" in refused(vm, "restore", stream, "--base", stream, status=2)
    assert "--channels needs a file" in refused(vm, "restore", stream, "--channels", "2", status=2)


def test_tools_say_what_to_do_with_a_stream(vm, stream):
    for action in ("info", "verify"):
        assert "'godwit snapshot convert'" in refused(vm, "snapshot", action, stream)


def test_a_file_is_no_stream(tmp_path, vm):
    vm.cli("save", vm.name, tmp_path / "file")
    assert "lacks the capability x-godwit-stream" in refused(vm, "restore", f"exec:cat {tmp_path / 'file'}")


def test_command_that_fails_fails_the_save(tmp_path, vm):
    assert "failed with exit status 3" in refused(vm, "save", vm.name, "exec:exit 3")
    assert "failed with exit status 4" in refused(vm, "save", vm.name, "exec:cat > /dev/null; exit 4")
    still_runs(vm)


def test_command_that_fails_fails_the_restore(vm, stream):
    assert "failed with exit status 5" in refused(vm, "restore", f"exec:cat {stream}; exit 5")
    assert "failed with exit status 6" in refused(vm, "restore", f"exec:head -c 1000 {stream}; exit 6")


def test_cut_off_stream_starts_no_guest(tmp_path, vm, stream):
    content = stream.read_bytes()
    for size in (0, 10, 1000, len(content) // 2, len(content) - 1):
        (tmp_path / "cut").write_bytes(content[:size])
        log = tmp_path / "log"
        message = refused(vm, "restore", f"exec:cat {tmp_path / 'cut'}", "--serial", f"file:{log}")
        assert "cut off" in message
        assert not log.exists() or not log.read_text()


def test_save_into_a_reader_that_hangs_can_be_cancelled(vm):
    ours, reader = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # full long before the stream ends
    save = started(vm, "save", vm.name, f"fd:{ours.fileno()}", pass_fds=[ours.fileno()])
    end = time.monotonic() + LIMIT
    while not (jobs := vm.qmp.command("query-jobs")):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert jobs[0]["status"] == "running"
    vm.qmp.command("job-cancel", id=jobs[0]["id"])
    assert save.wait(LIMIT) == 1
    assert "cancelled" in save.stderr.read()
    still_runs(vm)
    reader.close()


def test_command_that_never_ends_is_ended_with_the_save(tmp_path, vm):
    """The pipe takes the whole stream; what is left is to wait for the command."""
    save = started(vm, "save", vm.name, f"exec:echo $$ > {tmp_path / 'pid'}; exec sleep 1000")
    end = time.monotonic() + LIMIT
    while not any(job["status"] == "concluded" for job in vm.qmp.command("query-jobs")) or not blocks(save, signal.SIGTERM):
        assert time.monotonic() < end
        time.sleep(0.02)
    save.send_signal(signal.SIGTERM)
    assert save.wait(LIMIT) == 1
    assert "still runs" in save.stderr.read()
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    still_runs(vm)


@pytest.mark.parametrize("size", [0, 1000, 100000])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_restore_that_waits_for_ever_ends_by_a_signal(tmp_path, stream, vm, size, number):
    """Before the first byte, among the states, and in the middle of memory; its command ends with it."""
    pid = tmp_path / "pid"
    command = f"exec:head -c {size} {stream}; echo $$ > {pid}; exec sleep 1000"
    restore = started(vm, "restore", command, "--name", "waiting")
    end = time.monotonic() + LIMIT
    while not (pid.exists() and pid.read_text()) or (size > 1000 and "waiting" not in vm.cli("list").stdout):
        assert time.monotonic() < end and restore.poll() is None
        time.sleep(0.02)
    restore.send_signal(number)
    assert restore.wait(LIMIT) == 1
    line = restore.stderr.read().strip()
    assert line.startswith(f"godwit restore: {command}: ") and line.endswith("cancelled") and "\n" not in line
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
    assert "waiting" not in vm.cli("list").stdout


def test_messages_name_the_stream_once(tmp_path, stream, vm):
    """As it was given, whoever noticed what is wrong."""
    content = stream.read_bytes()
    half = len(content) // 2
    for name, cut in {"start": content[:500], "middle": content[:half], "end": content + b"x",
                      "bad": content[:half] + bytes([content[half] ^ 1]) + content[half + 1:]}.items():
        file = tmp_path / name
        file.write_bytes(cut)
        for source in (file, f"exec:cat {file}"):
            assert refused(vm, "restore", source, "--name", "other").count(str(source)) == 1
        failing = refused(vm, "restore", f"exec:cat {file}; exit 7", "--name", "other")
        assert failing.count(str(file)) == 1 and "exec:" not in failing
        assert refused(vm, "snapshot", "convert", file, tmp_path / "out").count(str(file)) == 1
    for target in ("/dev/full", "exec:exit 9"):
        result = subprocess.run([GODWIT, "save", vm.name, target], env=vm.environment, capture_output=True, text=True,
                                timeout=LIMIT, check=False)
        if result.returncode:  # a pipe may take all of it
            assert result.stderr.count(target.removeprefix("exec:")) == 1 and "fd:save" not in result.stderr
    assert "/dev/full: " in refused(vm, "save", vm.name, "/dev/full")


def test_vm_runs_no_commands_itself(vm):
    answer = vm.qmp.raw("godwit-save", file="exec:cat")
    assert "a VM runs no commands" in answer["error"]["desc"]
    answer = vm.qmp.raw("godwit-save", file="fd:none")
    assert "no file descriptor has the name 'none'" in answer["error"]["desc"]
    assert "no file descriptor came" in json.dumps(vm.qmp.raw("getfd", fdname="x"))
