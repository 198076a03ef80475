# SPDX-License-Identifier: BSD-2-Clause
"""A godwit machine as tests, benchmarks and the demo use it: start it, speak to its control socket, to its serial
line and to the shell in its guest, and look at what the host holds for it.

Everything waits with a limit and fails with what was last heard, so that a hung guest ends a test and says why.
"""

import base64
import json
import os
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("GODWIT_BUILD", REPOSITORY / "build"))
GODWIT = os.environ.get("GODWIT", str(BUILD / "src/cli/godwit"))
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Everything is slower on an emulated host that shares two processors; no test measures time with these.
START_LIMIT = 240
SHELL_LIMIT = 240


class Failure(AssertionError):
    """What a machine did instead of what was expected."""


class Line:
    """A stream socket to a guest's serial line or console; keeps all that was heard."""

    def __init__(self, path, limit=START_LIMIT, alive=lambda: None):
        self.alive = alive
        self.heard = ""
        self.taken = 0
        end = time.monotonic() + limit
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                self.socket.close()
                alive()
                if time.monotonic() > end:
                    raise Failure(f"nobody listens on {path}") from None
                time.sleep(0.005)

    def send(self, text):
        self.socket.sendall(text.encode())

    def send_script(self, script):
        """Gives the test shell of tools/guest-init a script without waiting for its end."""
        self.send(base64.b64encode(script.encode()).decode() + "\n")

    def pump(self, seconds):
        """Hears what comes within this time; false at the end of the stream."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return True
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.heard += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern, limit=START_LIMIT):
        """Waits for the regular expression behind what was taken before; returns the match and takes up to its end."""
        expression = re.compile(pattern, re.MULTILINE)
        end = time.monotonic() + limit
        while True:
            match = expression.search(self.heard, self.taken)
            if match:
                self.taken = match.end()
                return match
            if time.monotonic() > end:
                raise Failure(f"no {pattern!r} within {limit} s; heard: {self.heard[-2000:]!r}")
            if not self.pump(0.2):
                self.alive()
                raise Failure(f"end of stream, no {pattern!r}; heard: {self.heard[-2000:]!r}")


class Qmp:
    """A control connection: commands, and the events that came meanwhile."""

    def __init__(self, path, limit=START_LIMIT, alive=lambda: None):
        self.line = Line(path, limit, alive)
        self.events = []
        self.greeting = self._next(limit)
        self.command("qmp_capabilities")

    def _next(self, limit):
        return json.loads(self.line.expect(r"^\{.*\}\r?\n", limit).group(0))

    def raw(self, name, limit=START_LIMIT, **arguments):
        """The whole answer, error or not."""
        request = {"execute": name}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.line.send(json.dumps(request) + "\r\n")
        while True:
            answer = self._next(limit)
            if "event" not in answer:
                return answer
            self.events.append(answer)

    def command(self, name, limit=START_LIMIT, **arguments):
        answer = self.raw(name, limit, **arguments)
        if "error" in answer:
            raise Failure(f"{name}: {answer['error']['desc']}")
        return answer["return"]

    def event(self, name, limit=START_LIMIT, matching=lambda data: True):
        """Waits for an event, also one that came before; removes it and returns its data."""
        end = time.monotonic() + limit
        while True:
            for event in self.events:
                if event["event"] == name and matching(event.get("data", {})):
                    self.events.remove(event)
                    return event.get("data", {})
            left = end - time.monotonic()
            if left <= 0:
                raise Failure(f"no event {name} within {limit} s; came: {self.events}")
            answer = self._next(left)
            if "event" in answer:
                self.events.append(answer)


class Machine:
    """`godwit run` with a folder of its own. Arguments are godwit's; a serial line and a console are added.

    serial and console name the guest's two terminals: each is a Line, connected on first use.
    """

    count = 0

    COMMAND = ("run",)

    def __init__(self, *arguments, name=None, serial=True, console=True, environment=None, wrapper=()):
        self._prepare(name, environment)
        command = [*wrapper, GODWIT, *self.COMMAND, "--name", self.name, *map(str, arguments)]
        if serial:
            command += ["--serial", f"unix:{self.directory}/serial"]
        if console:
            command += ["--console", f"unix:{self.directory}/console"]
        self._launch(command)

    def _prepare(self, name, environment):
        Machine.count += 1
        self.name = name or f"vm{os.getpid()}-{Machine.count}"
        self.directory = Path(tempfile.mkdtemp(prefix="godwit-test-"))
        self.environment = dict(os.environ, GODWIT_RUN_DIR=str(self.directory), **(environment or {}))
        self._lines = {}
        self._qmp = None

    def _launch(self, command):
        self.command_line = command
        self.errors = open(self.directory / "stderr", "w+")
        self.process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL,
                                        stdout=self.errors, stderr=self.errors)

    # --- Its ends -----------------------------------------------------------------------------------

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            print(f"--- {self.name}: {' '.join(self.command_line)}")
            print(self.stderr()[-3000:])
            for name, line in self._lines.items():
                print(f"--- {name}: {line.heard[-3000:]}")
        self.kill()

    def stderr(self):
        self.errors.flush()
        return (self.directory / "stderr").read_text(errors="replace")

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failure(f"godwit ended with {self.process.returncode}: {self.stderr()[-2000:]}")

    def wait(self, limit=START_LIMIT):
        """Waits until the process ends; its exit status."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failure(f"godwit still runs after {limit} s") from None

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for line in self._lines.values():
            line.socket.close()
        if self._qmp:
            self._qmp.line.socket.close()
        self.errors.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- Its voices ---------------------------------------------------------------------------------

    def _line(self, name):
        if name not in self._lines:
            self._lines[name] = Line(self.directory / name, alive=self.check_alive)
        return self._lines[name]

    @property
    def serial(self):
        return self._line("serial")

    @property
    def console(self):
        return self._line("console")

    @property
    def qmp(self):
        if not self._qmp:
            self._qmp = Qmp(self.directory / f"{self.name}.sock", alive=self.check_alive)
        return self._qmp

    def cli(self, *arguments, check=True, limit=START_LIMIT):
        """Runs another godwit command for this machine's run directory."""
        result = subprocess.run([GODWIT, *map(str, arguments)], env=self.environment, capture_output=True,
                                text=True, timeout=limit, stdin=subprocess.DEVNULL)
        if check and result.returncode:
            raise Failure(f"godwit {arguments}: {result.returncode}: {result.stderr}")
        return result

    # --- Its guest ----------------------------------------------------------------------------------

    def wait_ready(self, limit=START_LIMIT):
        """Waits for the shell of a guest that tools/guest-image made."""
        self.console.expect(r"^godwit-guest-ready\r?$", limit)
        return self

    def sh(self, script, limit=SHELL_LIMIT, check=True):
        """Runs a shell script in the guest; what it printed."""
        self.console.send_script(script)
        start = self.console.taken
        match = self.console.expect(r"^godwit-done: (\d+)\r?\n", limit)
        output = self.console.heard[start:match.start()].replace("\r\n", "\n").strip("\n")
        if check and match.group(1) != "0":
            raise Failure(f"in the guest: {script!r} ended with {match.group(1)}: {output[-2000:]}")
        return output

    def mem_total(self):
        """The guest's own MemTotal in bytes."""
        return int(self.sh("grep MemTotal /proc/meminfo").split()[1]) * KIB

    # --- Elastic memory -----------------------------------------------------------------------------

    def elastic(self, ident):
        for device in self.qmp.command("query-memory-devices"):
            if device["data"]["id"] == ident:
                return device["data"]
        raise Failure(f"no elastic device {ident}")

    def request(self, ident, size):
        """Asks for a size and does not wait."""
        return self.qmp.command("godwit-resize", id=ident, size=size)

    def resize(self, ident, size, limit=START_LIMIT):
        """Asks for a size and waits until the guest is there."""
        self.request(ident, size)
        return self.wait_size(ident, size, limit)

    def wait_size(self, ident, size, limit=START_LIMIT):
        end = time.monotonic() + limit
        while self.elastic(ident)["size"] != size:
            if time.monotonic() > end:
                raise Failure(f"{ident} has {self.elastic(ident)['size']} after {limit} s, not {size}")
            time.sleep(0.1)
        return size

    # --- What the host holds ------------------------------------------------------------------------

    def host_memory(self):
        """Bytes of this machine in the host: resident (all of the process's, guest memory included), pss, tables."""
        fields = {}
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split()[:2]
            fields[name.rstrip(":")] = int(value) * KIB
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmPTE:"):
                fields["VmPTE"] = int(line.split()[1]) * KIB
        return fields

    def mappings(self):
        """How many mappings (VMAs) the process has."""
        return len(Path(f"/proc/{self.process.pid}/maps").read_text().splitlines())

    def region_resident(self, ident):
        """Bytes that the host holds for one piece of guest memory."""
        for region in self.qmp.command("godwit-memory")["regions"]:
            if region["id"] == ident:
                return region["resident"]
        raise Failure(f"no memory region {ident}")
