# SPDX-License-Identifier: BSD-2-Clause
"""tools/emulated-host: what it promises to the one who runs a command with it.

Runs the real tool, so it needs what tools/setup unpacks; skipped by name without that.
"""

import os
import pathlib
import signal
import subprocess
import time

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools/emulated-host"
CACHE = pathlib.Path(os.environ.get("GODWIT_CACHE") or REPOSITORY / ".cache")
# A start from a saved state takes half a second; on a busy machine the first one boots and saves.
LIMIT = 300

pytestmark = [
    pytest.mark.skipif(not (CACHE / "kernels/6.1-generic/vmlinuz").exists(),
                       reason="no unpacked kernels: run tools/setup"),
    pytest.mark.skipif("GODWIT_EMULATED_HOST" in os.environ, reason="runs outside an emulated host only"),
]


def host(*arguments, **keywords):
    """Runs the tool to its end; the result has bytes."""
    return subprocess.run([TOOL, *arguments], capture_output=True, timeout=LIMIT, **keywords)


def qemu_children(pid):
    """The processes of QEMU that this process started."""
    result = subprocess.run(["pgrep", "-P", str(pid), "qemu"], capture_output=True, text=True)
    return [int(word) for word in result.stdout.split()]


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_passes_exit_status_output_and_error_output_apart():
    result = host("sh", "-c", "echo to output; echo to errors >&2; exit 7")
    assert (result.returncode, result.stdout, result.stderr) == (7, b"to output\n", b"to errors\n")


def test_passes_arguments_byte_by_byte():
    odd = [b"", b"two words", b"it's", b'"$HOME"', b"*", b"new\nline", b"\xff\xfe", b"--cold", b"\\", b"a=b"]
    result = host("--", "printf", "%s\\0", *odd)
    assert result.stdout == b"".join(word + b"\0" for word in odd)


def test_tells_a_host_that_stands_still_from_a_command_that_takes_long():
    assert host("--silence", "20", "sleep", "30").returncode == 0
    with subprocess.Popen([TOOL, "--silence", "20", "sh", "-c", "echo here; sleep 600"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as tool:
        assert tool.stdout.readline() == b"here\n"
        for qemu in qemu_children(tool.pid):
            os.kill(qemu, signal.SIGSTOP)
        errors = tool.communicate(timeout=LIMIT)[1]
        assert tool.returncode == 125
        assert b"no sign of life for 20 s" in errors


def test_names_a_command_that_does_not_exist():
    result = host("no-such-command")
    assert result.returncode == 127
    assert b"no-such-command" in result.stderr


def test_passes_named_environment_variables_and_no_others():
    result = host("--env", "NAMED", "--env", "GIVEN=a value", "sh", "-c", 'echo "$NAMED|$GIVEN|$SECRET"',
                  env={**os.environ, "NAMED": "named", "SECRET": "secret"})
    assert result.stdout == b"named|a value|\n"


def test_starts_in_the_callers_folder():
    result = host("pwd", cwd=REPOSITORY / "tools")
    assert result.stdout.decode().strip() == str(REPOSITORY / "tools")


def test_shows_the_callers_folder_where_the_host_has_its_own(tmp_path):
    (tmp_path / "file").write_text("seen")
    result = host("sh", "-c", "cat file; touch other", cwd=tmp_path)
    assert result.stdout == b"seen"
    assert result.returncode != 0 and not (tmp_path / "other").exists()


def test_input_is_empty_unless_asked_for():
    assert host("cat", input=b"not this").stdout == b""


def test_carries_input_and_output_without_loss():
    # More than any buffer on the way holds, and with every byte value.
    content = bytes(range(256)) * 16384
    assert host("--stdin", "cat", input=content).stdout == content


def test_has_a_kvm_that_runs_stock_kernels():
    subprocess.run([REPOSITORY / "tools/kvm-probe"], capture_output=True)    # compiles it
    result = host(REPOSITORY / "tools/kvm-probe")
    assert (result.returncode, result.stdout) == (0, b"kvm: full\n")


def test_a_writable_folder_is_written_to_outside(tmp_path):
    result = host("--writable", tmp_path, "sh", "-c", f"echo inside > {tmp_path}/file")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "file").read_text() == "inside\n"


def test_the_rest_of_the_machine_is_not_writable():
    result = host("sh", "-c", f"touch {REPOSITORY}/.written-from-inside")
    assert result.returncode != 0
    assert not (REPOSITORY / ".written-from-inside").exists()


def test_the_time_limit_ends_the_command():
    start = time.monotonic()
    result = host("--timeout", "1", "sleep", "1000")
    assert result.returncode == 124
    assert time.monotonic() - start < LIMIT / 2


def test_a_failure_of_its_own_is_one_line_and_status_125():
    result = host("--writable", "/no/such/folder", "true")
    assert result.returncode == 125
    assert result.stderr == b"emulated-host: --writable /no/such/folder: there is no such folder\n"


def test_reserves_huge_pages_and_has_a_scratch_disk():
    script = "cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages; stat -f -c %T /var/tmp"
    result = host("--hugepages-2m", "64", "--scratch", "1G", "sh", "-c", script)
    assert result.stdout == b"64\next2/ext3\n", result.stderr


def test_each_start_from_a_saved_state_has_its_own_random_numbers_and_the_right_time():
    script = "cat /proc/sys/kernel/random/uuid; date +%s"
    first, second = (host("sh", "-c", script).stdout.decode().split() for _ in range(2))
    assert first[0] != second[0]
    assert abs(int(second[1]) - time.time()) < 30


def test_a_cold_start_does_the_same_as_a_saved_one():
    script = "uname -r; nproc; ls /sys/class/net; head -1 /proc/meminfo"
    cold, saved = (host(*option, "sh", "-c", script) for option in (["--cold"], []))
    assert cold.returncode == 0
    assert cold.stdout == saved.stdout


def test_two_hosts_reach_each_other_by_network():
    name = f"test-{os.getpid()}"
    busybox = CACHE / "busybox/bin/busybox"
    common = ["--cpus", "1", "--net", name]
    with subprocess.Popen([TOOL, *common, "--address", "10.77.0.1/24", "--timeout", "100",
                           busybox, "nc", "-l", "-p", "5000"], stdout=subprocess.PIPE) as server:
        script = f"until echo hello | {busybox} nc 10.77.0.1 5000; do sleep 0.2; done"
        client = host(*common, "--address", "10.77.0.2/24", "--timeout", "100", "sh", "-c", script)
        output, _ = server.communicate(timeout=LIMIT)
    assert client.returncode == 0
    assert output == b"hello\n"


def test_a_second_host_cannot_take_an_address_in_use():
    name = f"taken-{os.getpid()}"
    arguments = [TOOL, "--net", name, "--address", "10.77.0.1/24", "--timeout", "100"]
    with subprocess.Popen([*arguments, "sh", "-c", "echo up; sleep 1000"], stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"up\n"
        second = subprocess.run([*arguments, "true"], capture_output=True, timeout=LIMIT)
        first.terminate()
    assert second.returncode == 125
    assert b"already has a host 10.77.0.1/24" in second.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_leaves_no_process_behind_when_ended(how):
    with subprocess.Popen([TOOL, "sh", "-c", "echo up; sleep 1000"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        children = qemu_children(process.pid)
        assert children
        process.send_signal(how)
        process.wait(timeout=LIMIT)
    wait_until(lambda: not any(pathlib.Path(f"/proc/{child}").exists() for child in children))


def test_ends_when_its_output_has_no_reader():
    with subprocess.Popen([TOOL, "yes"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(timeout=LIMIT) == -signal.SIGPIPE


def test_if_needed_says_in_one_line_what_it_used():
    result = host("--if-needed", "echo", "ran")
    assert result.stdout == b"ran\n"
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith("godwit: ")
    assert "using this machine's KVM" in lines[0] or "using the emulated host (QEMU " in lines[0]
