# SPDX-License-Identifier: BSD-2-Clause
"""docs/control.md says what the control socket does: the same commands, arguments, events and words in both."""

import re

import pytest

from support.vm import BUILD, MIB, REPOSITORY, Machine

DOCUMENT = (REPOSITORY / "docs/control.md").read_text()
SOURCES = "\n".join(path.read_text() for path in sorted((REPOSITORY / "src").glob("*/*.c")))


def section(title):
    return DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title):
    """The first cell of each table row, which is code, with the rest of the row."""
    return {name: rest for name, rest in re.findall(r"^\| `([^`]+)` \|(.*)$", section(title), re.MULTILINE)}


def described(word):
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", DOCUMENT)


def members(value):
    """The names of all members, at any depth."""
    if isinstance(value, dict):
        return set(value) | members(list(value.values()))
    return set().union(*map(members, value)) if isinstance(value, list) else set()


@pytest.fixture(scope="module")
def vm():
    with Machine("--kernel", BUILD / "tests/mini/reset.elf", "--memory", "32M", "--elastic", "id=hot0,max=1G", "--balloon",
                 "id=balloon0", "--paused", console=False) as machine:
        yield machine


def test_every_command_is_described_and_no_other(vm):
    assert set(rows("Commands")) == {command["name"] for command in vm.qmp.command("query-commands")}


def test_every_argument_is_described(vm):
    for command in vm.qmp.command("query-commands"):
        row = rows("Commands")[command["name"]]
        for argument in command["arguments"]:
            assert f"`{argument['name']}`" in row, command


def test_every_event_is_described_and_no_other():
    sent = set(re.findall(r'(?:machine_emit|event_throttle_submit)\([^;]*?"([A-Z_]+)"', SOURCES))
    assert len(sent) > 8
    assert set(rows("Events")) == sent


@pytest.mark.parametrize("command", ["query-version", "query-status", "query-cpus-fast", "query-memory-devices",
                                     "query-memory-size-summary", "query-balloon", "query-jobs", "godwit-memory",
                                     "godwit-devices", "godwit-statistics"])
def test_every_member_of_an_answer_is_described(vm, command):
    vm.qmp.command("godwit-resize", id="hot0", size=64 * MIB)
    names = members(vm.qmp.command(command))
    assert names
    assert [name for name in sorted(names) if not described(name)] == []


def test_every_reason_is_described():
    reasons = set(re.findall(r'machine_shutdown\([^;]*"([a-z-]+)"\)', SOURCES))
    reasons |= set(re.findall(r'(?:guest_reset|machine_reset_by)\([^;]*"([a-z-]+)"\)', SOURCES))
    reasons |= set(re.findall(r'\[VIRTIO_MEM_[A-Z_]+\] = "([a-z-]+)"', SOURCES))
    assert len(reasons) > 12
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in DOCUMENT] == []


def test_limits_are_those_of_the_program():
    headers = "\n".join(path.read_text() for path in (REPOSITORY / "src/control").glob("*.h"))
    clients, = re.findall(r"QMP_CLIENTS_MAX (\d+)", headers)
    jobs, = re.findall(r"JOBS_MAX +(\d+)", headers)
    assert re.findall(r"QMP_(?:MESSAGE|OUTPUT)_MAX\s+\((\d+) \* 1024\)", headers) == ["1024", "1024"]
    assert f"{clients} clients at once" in DOCUMENT and f"of {jobs} listed jobs" in DOCUMENT
    assert DOCUMENT.count("1 MiB") >= 2
