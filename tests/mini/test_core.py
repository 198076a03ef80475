# SPDX-License-Identifier: BSD-2-Clause
"""Core files of a saved machine: what debuggers find in the notes is what the processors had when they were saved. The
oracle are the fields that the snapshot's description names."""

import re
import shutil
import struct
import subprocess

import pytest

from support.mapped_ram import Snapshot

from mini_machine import Original

GENERAL = ["r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"]
QEMU = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *[f"r{n}" for n in range(8, 16)], "rip", "rflags"]
KERNEL_GS = 0xc0000102


def fields_of(snapshot, cpu):
    """A processor's fields by name, and its model-specific registers by number, as the description has them."""
    device, = [device for device in snapshot.description["devices"]
               if device["name"] == "cpu" and device["instance_id"] == cpu]
    body, at, values, msrs = snapshot.sections["cpu", cpu], 0, {}, {}
    for field in device["fields"]:
        value = int.from_bytes(body[at:at + field["size"]], "big")
        at += field["size"]
        if field["name"] == "msr":
            number = value
        elif field["name"] == "msr value":
            msrs[number] = value
        elif field["name"] in ("limit", "selector", "type", "present", "dpl", "db", "s", "l", "g", "avl"):
            values[f"{segment} {field['name']}"] = value
        else:
            segment = field["name"]  # of which limit and so on follow
            values[segment] = value
    assert at == len(body)
    return values, msrs


def notes_of(core):
    """(name, type, content) of each note, all of which are in the first segment."""
    table, count = struct.unpack_from("<Q", core, 32)[0], struct.unpack_from("<H", core, 56)[0]
    kinds = [struct.unpack_from("<I", core, table + 56 * index)[0] for index in range(count)]
    assert kinds == [4] + [1] * (count - 1)
    at, size = struct.unpack_from("<Q", core, table + 8)[0], struct.unpack_from("<Q", core, table + 32)[0]
    notes, end = [], at + size
    while at < end:
        name, content, kind = struct.unpack_from("<III", core, at)
        at += 12
        text = core[at:at + name].rstrip(b"\0").decode()
        at += name + -name % 4
        notes.append((text, kind, core[at:at + content]))
        at += content + -content % 4
    assert at == end
    return notes


@pytest.fixture
def core(tmp_path):
    """A core file of two processors, of which one is in the middle of everything."""
    with Original(tmp_path, "moving", "--cpus", "2", cmdline="rounds=100000") as vm:
        vm.wait_lines(3)
        vm.save(tmp_path / "snap")
        vm.cli("snapshot", "export", tmp_path / "snap", tmp_path / "core", "--elf")
    return tmp_path / "core"


def test_notes_have_the_saved_registers(core, tmp_path):
    snapshot, notes = Snapshot(tmp_path / "snap"), notes_of(core.read_bytes())
    assert [(name, kind) for name, kind, _ in notes] == [("CORE", 1)] * 2 + [("QEMU", 0)] * 2
    for cpu in range(2):
        values, msrs = fields_of(snapshot, cpu)
        status, state = notes[cpu][2], notes[2 + cpu][2]
        assert len(status) == 336 and struct.unpack_from("<I", status, 32) == (cpu + 1,)
        general = struct.unpack_from("<27Q", status, 112)
        assert list(general[:15]) == [values[name] for name in GENERAL]
        assert general[16:] == (values["rip"], values["cs selector"], values["rflags"], values["rsp"],
                                values["ss selector"], values["fs"], values["gs"], values["ds selector"],
                                values["es selector"], values["fs selector"], values["gs selector"])
        assert struct.unpack_from("<II", state) == (1, len(state))
        assert list(struct.unpack_from("<18Q", state, 8)) == [values[name] for name in QEMU]
        for index, name in enumerate(["cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt"]):
            selector, limit, flags, _, base = struct.unpack_from("<IIIIQ", state, 152 + 24 * index)
            assert (limit, base) == (values[f"{name} limit"], values[name])
            if name in ("gdt", "idt"):
                assert selector == flags == 0
                continue
            assert selector == values[f"{name} selector"]
            bits = {"type": 8, "s": 12, "dpl": 13, "present": 15, "avl": 20, "l": 21, "db": 22, "g": 23}
            assert flags == sum(values[f"{name} {bit}"] << at for bit, at in bits.items())
        assert struct.unpack_from("<6Q", state, 392) == (values["cr0"], 0, values["cr2"], values["cr3"],
                                                         values["cr4"], msrs[KERNEL_GS])
    values, msrs = fields_of(snapshot, 0)
    assert values["r9"] > 0 and msrs[KERNEL_GS] > 1 << 63 and values["cr3"] > 0  # the guest does set them


def test_readelf_lists_the_notes(core):
    if not shutil.which("readelf"):
        pytest.skip("no readelf")
    said = subprocess.run(["readelf", "-nW", core], capture_output=True, text=True, check=True)
    assert said.stderr == ""
    assert re.findall(r"^ +(CORE|QEMU) +0x0*(\w+)", said.stdout, re.MULTILINE) == [
        ("CORE", "150"), ("CORE", "150"), ("QEMU", "1b8"), ("QEMU", "1b8")]


def test_gdb_shows_the_saved_registers(core, tmp_path):
    if not shutil.which("gdb"):
        pytest.skip("no gdb")
    said = subprocess.run(["gdb", "--nx", "--batch", "-ex", f"core-file {core}", "-ex", "info threads", "-ex",
                           "thread 1", "-ex", "info registers", "-ex", "x/1xb $rip"],
                          capture_output=True, text=True, check=False)
    values, _ = fields_of(Snapshot(tmp_path / "snap"), 0)
    shown = dict(re.findall(r"^(\w+) +(0x[0-9a-f]+) ", said.stdout, re.MULTILINE))
    for name in [*GENERAL, "rip", "rsp"]:
        assert int(shown[name], 16) == values[name], (name, said.stdout, said.stderr)
    assert "LWP 1" in said.stdout and "LWP 2" in said.stdout
    assert "Cannot access memory" not in said.stdout + said.stderr
