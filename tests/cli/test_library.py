# SPDX-License-Identifier: BSD-2-Clause
"""libgodwit-snapshot, as others use it: installed, found by pkg-config, and called through its header alone."""

import ctypes
import json
import os
import random
import re
import shutil
import struct
import subprocess

import pytest

from support.mapped_ram import CHUNK, PAGE, Snapshot
from support.vm import BUILD, REPOSITORY

from test_snapshot import chain, snap  # noqa: F401: fixtures

HEADER = REPOSITORY / "include/godwit/snapshot.h"
STORED, INHERITED, ZERO, UNPLUGGED = range(4)
ENOENT, EINVAL, ERANGE, ENOLINK, EBADMSG = 2, 22, 34, 67, 74


class Block(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("size", ctypes.c_uint64), ("elastic", ctypes.c_bool),
                ("unit", ctypes.c_uint64)]


class Range(ctypes.Structure):
    _fields_ = [("block", ctypes.c_uint32), ("address", ctypes.c_uint64), ("offset", ctypes.c_uint64),
                ("size", ctypes.c_uint64)]


class Part(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("instance", ctypes.c_uint32), ("version", ctypes.c_uint32),
                ("bytes", ctypes.POINTER(ctypes.c_uint8)), ("size", ctypes.c_size_t), ("offset", ctypes.c_uint64)]


class Verified(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("bytes", "zero", "chunks", "bad")]


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Library:
    """The functions, for one snapshot."""

    def __init__(self, path, base=None, flags=0):
        self.c = ctypes.CDLL(BUILD / "src/snapshot/libgodwit-snapshot.so.1")
        for name in ("machine", "base"):
            getattr(self.c, f"godwit_snapshot_{name}").restype = ctypes.c_char_p
        for name in ("is_foreign", "block", "range", "part", "checksum"):
            getattr(self.c, f"godwit_snapshot_{name}").restype = ctypes.c_bool
        self.c.godwit_snapshot_run.restype = ctypes.c_uint64
        self.snapshot = ctypes.c_void_p()
        self.call("open", os.fsencode(path), base and os.fsencode(base), flags, ctypes.byref(self.snapshot), own=False)

    def call(self, name, *arguments, own=True):
        message = ctypes.c_char_p()
        before = (self.snapshot,) if own else ()
        result = getattr(self.c, f"godwit_snapshot_{name}")(*before, *arguments, ctypes.byref(message))
        if result:
            raise Refused(-result, message.value.decode())
        assert message.value is None

    def list(self, name, kind):
        items, item = [], kind()
        while getattr(self.c, f"godwit_snapshot_{name}")(self.snapshot, len(items), ctypes.byref(item)):
            items.append(item)
            item = kind()
        assert len(items) == getattr(self.c, f"godwit_snapshot_{name}s")(self.snapshot)
        return items

    def read(self, block, offset, size):
        buffer = ctypes.create_string_buffer(max(size, 1))
        self.call("read", block, ctypes.c_uint64(offset), buffer, ctypes.c_size_t(size))
        return buffer.raw[:size]

    def states(self, block):
        """The state of each page."""
        states, state = [], ctypes.c_int()
        while count := self.c.godwit_snapshot_run(self.snapshot, block, ctypes.c_uint64(len(states)),
                                                  ctypes.byref(state)):
            states += [state.value] * count
        return states

    def close(self):
        self.c.godwit_snapshot_close(self.snapshot)


def test_blocks_and_their_content(snap, tmp_path):
    library, draw = Library(snap), random.Random(3)
    unit, bitmap = struct.unpack(">QQ", Snapshot(snap).body("godwit/plugged")[-16:])
    assert [(block.name, block.size, block.elastic, block.unit) for block in library.list("block", Block)] == [
        (b"ram", 300 * PAGE, False, 0), (b"hot0", 2048 * PAGE, True, unit)]
    assert 0 < bitmap < (1 << 2048 * PAGE // unit) - 1
    for index, name in enumerate(["ram", "hot0"]):
        content = (tmp_path / f"{name}.img").read_bytes()
        assert library.read(index, 0, len(content)) == content
        for _ in range(50):
            offset = draw.randrange(len(content))
            size = draw.choice([0, 1, 4095, CHUNK, draw.randrange(len(content) - offset)])
            size = min(size, len(content) - offset)
            assert library.read(index, offset, size) == content[offset:offset + size]
        assert library.states(index) == [
            UNPLUGGED if index == 1 and not bitmap >> at // unit & 1 else STORED if any(content[at:at + PAGE]) else ZERO
            for at in range(0, len(content), PAGE)]
    library.close()


def test_chain_is_read_as_one(chain, snap, tmp_path):
    library, second, below = Library(chain), Snapshot(chain), Snapshot(snap)
    content = (tmp_path / "new.img").read_bytes()
    assert library.read(0, 0, len(content)) == content == second.read("ram", below)
    states = library.states(0)
    assert [page for page in range(300) if states[page] == STORED] == [3, 64, 65, 299]
    inherited = second.inherited()["ram"]
    assert [bool(inherited[page // 8] >> page % 8 & 1) for page in range(300)] == [
        state == INHERITED for state in states]
    identity, base = ctypes.create_string_buffer(16), ctypes.create_string_buffer(16)
    assert library.c.godwit_snapshot_base(library.snapshot, base) == b"one.snap"
    library.close()
    library = Library(snap)
    library.c.godwit_snapshot_id(library.snapshot, identity)
    assert identity.raw == base.raw and any(identity.raw)
    assert library.c.godwit_snapshot_base(library.snapshot, base) is None and not any(base.raw)
    library.close()


def test_chain_without_its_base(chain, snap, tmp_path):
    moved = snap.rename(tmp_path / "moved.snap")
    with pytest.raises(Refused, match="one.snap.*No such file") as refused:
        Library(chain)
    assert refused.value.code == ENOENT
    library = Library(chain, flags=1)
    assert library.states(0)[3] == STORED
    with pytest.raises(Refused, match="base") as refused:
        library.read(0, PAGE, PAGE)
    assert refused.value.code == ENOLINK
    library.close()
    library = Library(chain, base=moved)
    assert library.read(0, 0, 300 * PAGE) == (tmp_path / "new.img").read_bytes()
    library.close()


def test_ranges_and_parts(snap):
    library, second = Library(snap), Snapshot(snap)
    assert [(part.block, part.address, part.offset, part.size) for part in library.list("range", Range)] == [
        (0, 0, 0, 300 * PAGE), (1, 300 * PAGE, 0, 2048 * PAGE)]
    parts = library.list("part", Part)
    ours = {(part.name.decode(), part.instance): bytes(part.bytes[:part.size]) for part in parts}
    assert ("godwit/file", 0) in ours
    whole = snap.read_bytes()
    for (name, instance), content in ours.items():
        assert content == second.body(name, instance)
    for part in parts:
        assert whole[part.offset:part.offset + part.size] == bytes(part.bytes[:part.size])
    assert library.c.godwit_snapshot_machine(library.snapshot) == b"godwit-1"
    assert not library.c.godwit_snapshot_is_foreign(library.snapshot)
    library.close()


def test_checksums_and_verification(snap, tmp_path):
    library, verified = Library(snap), Verified()
    library.call("verify", 2, ctypes.byref(verified))
    assert verified.bytes == 2348 * PAGE and verified.bad == 0
    checksums = Snapshot(snap).body("godwit/checksums")
    checksum = ctypes.create_string_buffer(16)
    chunks = [(0, number) for number in range(5)] + [(1, number) for number in range(32)]
    for at, (block, chunk) in enumerate(chunks):
        assert library.c.godwit_snapshot_checksum(library.snapshot, block, ctypes.c_uint64(chunk), checksum)
        assert checksum.raw == checksums[16 * at:16 * at + 16]
    for block, chunk in [(0, 5), (1, 32), (2, 0)]:
        assert not library.c.godwit_snapshot_checksum(library.snapshot, block, ctypes.c_uint64(chunk), checksum)
    where = Snapshot(snap).block("ram").pages_offset + library.states(0).index(STORED) * PAGE
    with open(snap, "r+b") as stream:
        stream.seek(where)
        stream.write(b"damage")
    with pytest.raises(Refused, match="checksum") as refused:
        library.read(0, 0, 300 * PAGE)
    assert refused.value.code == EBADMSG
    with pytest.raises(Refused, match="checksum"):
        library.call("verify", 1, ctypes.byref(verified))
    assert verified.bad == 1
    library.close()


def test_mistakes_are_errors(snap, tmp_path):
    library = Library(snap)
    for block, offset, size in [(2, 0, 1), (0, 300 * PAGE, 1), (0, 300 * PAGE - 1, 2), (0, 1 << 63, 1), (0, 1, 2**64 - 1)]:
        with pytest.raises(Refused) as refused:
            library.call("read", block, ctypes.c_uint64(offset), None, ctypes.c_size_t(size))
        assert refused.value.code == ERANGE
    assert library.read(0, 300 * PAGE, 0) == b""
    for threads in (0, 65):
        with pytest.raises(Refused, match=f"{threads} threads are not 1 to 64") as refused:
            library.call("verify", threads, None)
        assert refused.value.code == EINVAL
    assert library.c.godwit_snapshot_run(library.snapshot, 0, ctypes.c_uint64(300), None) == 0
    assert library.c.godwit_snapshot_run(library.snapshot, 2, ctypes.c_uint64(0), None) == 0
    library.close()
    with pytest.raises(Refused, match="flags 0x2 are not known"):
        Library(snap, flags=2)
    os.truncate(snap, 5000)
    with pytest.raises(Refused, match=re.escape(str(snap))):
        Library(snap)
    with pytest.raises(Refused, match="No such file") as refused:
        Library(tmp_path / "nothing")
    assert refused.value.code == ENOENT


def test_only_what_the_header_declares_is_visible():
    said = subprocess.run(["nm", "-D", "--defined-only", BUILD / "src/snapshot/libgodwit-snapshot.so.1"],
                          capture_output=True, text=True, check=True).stdout
    visible = {line.split()[2].split("@")[0] for line in said.splitlines() if line.split()[1] == "T"}
    declared = set(re.findall(r"\b(godwit_snapshot_\w+)\(", re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)))
    assert visible == declared


def test_version_is_the_same_everywhere():
    version, = re.findall(r"GODWIT_SNAPSHOT_VERSION\s+(\d+)", HEADER.read_text())
    built = {path.name for path in (BUILD / "src/snapshot").glob("libgodwit-snapshot.so.*.*.*") if path.is_file()}
    assert built == {f"libgodwit-snapshot.so.{int(version) // 100}.{int(version) % 100}.0"}


@pytest.mark.parametrize("compiler", [["cc", "-xc", "-std=c99"], ["g++", "-xc++", "-std=c++11"],
                                      ["clang++", "-xc++", "-std=c++11"]], ids=lambda command: command[0])
def test_header_stands_alone(compiler):
    if not shutil.which(compiler[0]):
        pytest.skip(f"no {compiler[0]}")
    result = subprocess.run([*compiler, "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror", HEADER],
                            capture_output=True, text=True, check=False)
    if "'cstddef'" in result.stderr or "cannot execute" in result.stderr:
        pytest.skip(f"{compiler[0]} has no C++ library")
    assert result.returncode == 0, result.stderr


def test_example_of_the_documentation_runs(snap, chain, tmp_path):
    destination = tmp_path / "installed"
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet"], check=True, capture_output=True,
                   env=dict(os.environ, DESTDIR=str(destination)))
    description, = destination.rglob("godwit-snapshot.pc")
    said = subprocess.run(["pkg-config", "--cflags", "--libs", "godwit-snapshot"], check=True, capture_output=True, text=True,
                          env=dict(os.environ, PKG_CONFIG_PATH=str(description.parent),
                                   PKG_CONFIG_SYSROOT_DIR=str(destination))).stdout
    text = (REPOSITORY / "docs/libraries.md").read_text().split("\n## libgodwit-snapshot\n")[1].split("\n## ")[0]
    source, = re.findall(r"^```c\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "look.c").write_text(source)
    command, = re.findall(r"^cc (.*) \$\(pkg-config --cflags --libs godwit-snapshot\)$", text, re.MULTILINE)
    subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", *command.split(), *said.split()], cwd=tmp_path,
                   check=True)
    environment = dict(os.environ, LD_LIBRARY_PATH=str(description.parents[1]))
    content = (tmp_path / "new.img").read_bytes()
    result = subprocess.run([tmp_path / "look", chain], env=environment, capture_output=True, text=True, check=True)
    info = {block["name"]: block for block in json.loads(subprocess.run(
        [BUILD / "src/cli/godwit", "snapshot", "info", chain, "--json"], capture_output=True, check=True).stdout)["blocks"]}
    lines = result.stdout.splitlines()
    stored, inherited, zero, unplugged = map(int, re.findall(r"\d+", lines[0]))
    assert lines[0].startswith("ram: ") and stored == 4 and unplugged == 0 and stored + inherited + zero == 300
    assert info["ram"]["size"] == 300 * PAGE
    assert lines[2] == "at 0: " + content[:8].hex(" ")
    result = subprocess.run([tmp_path / "look", tmp_path / "none"], env=environment, capture_output=True, text=True,
                            check=False)
    assert (result.returncode, result.stderr) == (
        1, f"{tmp_path}/none: cannot open the snapshot: No such file or directory\n")
