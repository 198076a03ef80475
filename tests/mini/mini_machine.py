# SPDX-License-Identifier: BSD-2-Clause
"""Machines with mini-guests, what the counting guest says and holds, and what commands say that refuse."""

import os
import time
from pathlib import Path

from support.vm import BUILD, Failure, Machine

GUESTS = BUILD / "tests/mini"
LIMIT = 240  # an emulated processor executes a million instructions a second
# As in guest/counting.c.
HEADER = 0x1000000
BOOT = 0x2000000
STRIDE = 7919
MAGIC = 0x676e69746e756f63
GENERATION = 0xfe000


class Going:
    """A mini-guest whose serial line goes to a file: what it said, exactly, up to the moment at which it ended."""

    def start(self, folder, name):
        self.log = Path(folder) / f"{name}.log"
        self.log.unlink(missing_ok=True)  # of one before it
        return ["--serial", f"file:{self.log}"]

    def text(self):
        return self.log.read_text().replace("\r", "") if self.log.exists() else ""

    def wait_text(self, condition, limit=LIMIT):
        end = time.monotonic() + limit
        while not condition(self.text()):
            assert "FAIL" not in self.text(), self.text()[-500:]
            self.check_alive()
            if time.monotonic() > end:
                raise Failure(f"{self.name} says {self.text()[-500:]!r}")
            time.sleep(0.02)
        return self

    def wait_lines(self, count):
        return self.wait_text(lambda text: text.count("\n") >= count)

    def save(self, file, *options, check=True):
        return self.cli("save", self.name, file, *options, check=check, limit=LIMIT)

    def job(self, ident=None):
        jobs = self.qmp.command("query-jobs")
        return next(job for job in jobs if job["id"] == ident) if ident else jobs[-1]

    def wait_job(self, ident, limit=LIMIT):
        end = time.monotonic() + limit
        while self.job(ident)["status"] != "concluded":
            assert time.monotonic() < end, self.job(ident)
            time.sleep(0.02)
        return self.job(ident)

    def wait_resident(self, limit=LIMIT):
        """The report of a restore whose memory has all come."""
        end = time.monotonic() + limit
        while not (report := self.qmp.command("godwit-restore"))["resident"]:
            assert time.monotonic() < end, report
            time.sleep(0.02)
        return report

    def finish(self):
        assert self.wait(LIMIT) == 0, self.text()[-500:]
        return self


class Original(Going, Machine):
    def __init__(self, folder, guest, *arguments, memory="64M", cmdline="", reboot=False, **options):
        super().__init__("--kernel", GUESTS / f"{guest}.elf", "--cmdline", f"mini {cmdline}", "--memory", memory,
                         "--on-crash=exit", *([] if reboot else ["--no-reboot"]), *self.start(folder, "original"),
                         *arguments, serial=False, console=False, **options)


class Restored(Going, Machine):
    COMMAND = ("restore",)

    def __init__(self, folder, file, *arguments, log="restored", **options):
        super().__init__(file, *self.start(folder, log), *arguments, serial=False, console=False, **options)


class RunDirectory:
    """Enough of a machine to run commands with."""

    cli = Machine.cli

    def __init__(self, folder):
        self.directory = Path(folder)
        self.environment = dict(os.environ, GODWIT_RUN_DIR=str(folder))


ENDLESS = 10**9  # steps or rounds that no guest comes to the end of: a test does not depend on who is faster


def goes_on(vm, lines=2):
    """The guest goes on for some more lines, and all that it has said follows from what came before, line by line."""
    vm.wait_lines(vm.text().count("\n") + lines)
    assert follows(vm.text()), vm.text()[-500:]


def follows(text):
    """Whether this is a piece of what a guest says that counts without an end, perhaps from the middle of a line on."""
    lines = text.split("\n")
    if len(lines) < 3:
        return True
    word, number = lines[1].split()
    return text in "".join(f"{word} {int(number) - 1 + n}\n" for n in range(len(lines)))


def counted(steps):
    return "".join(f"step {n}\n" for n in range(1, steps + 1)) + "done\n"


def refused(result):
    assert result.returncode == 1, (result.returncode, result.stdout, result.stderr)
    line = result.stderr.strip()
    assert "\n" not in line
    return line


def restore_refused(vm, file, *arguments):
    """What `godwit restore` says; it must end before a guest runs."""
    log = vm.directory / "refused.log"
    result = vm.cli("restore", file, "--name", "refused", "--serial", f"file:{log}", *arguments, check=False)
    assert not log.exists() or log.read_text() == ""
    return refused(result)


def no_partial(folder):
    assert [path.name for path in Path(folder).iterdir() if ".partial-" in path.name] == []


def memory_of(vm, file, folder):
    """The bytes of guest-physical memory in a snapshot of a small machine."""
    out = Path(folder) / f"{Path(file).name}.raw"
    out.unlink(missing_ok=True)
    vm.cli("snapshot", "export", file, out, "--raw", "memory0")
    return out.read_bytes()


def word(memory, address):
    return int.from_bytes(memory[address:address + 8], "little")


def check_moment(memory):
    """All pages that the guest counts in are of one moment; the step of that moment."""
    assert word(memory, HEADER) == MAGIC
    pages, step, index = word(memory, HEADER + 8), *divmod(word(memory, HEADER + 40), 1 << 32)
    for at in range(pages):
        address = BOOT + at * STRIDE % pages * 4096
        first, last = word(memory, address), word(memory, address + 4088)
        allowed = [(step, step)] if at < index else [(step - 1, step - 1)]
        if at == index:
            allowed = [(step - 1, step - 1), (step, step - 1), (step, step)]
        assert (first, last) in allowed, f"step {step}, page {at} of {index}: {first}, {last}"
    return step
