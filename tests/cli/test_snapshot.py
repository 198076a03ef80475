# SPDX-License-Identifier: BSD-2-Clause
"""`godwit snapshot` with files of ours and of QEMU; a second reader, written from the format's description, agrees."""

import json
import os
import random
import re
import shutil
import subprocess
import xml.etree.ElementTree

import pytest

from support.mapped_ram import PAGE, Snapshot
from support.vm import BUILD

MIB = 1 << 20


def image(path, pages, density, seed):
    """A file of that many pages, of which this share is not zeros."""
    source = random.Random(seed)
    with open(path, "wb") as stream:
        for _ in range(pages):
            stream.write(source.randbytes(PAGE) if source.random() < density else bytes(PAGE))
    return path


def make(*arguments):
    subprocess.run([BUILD / "tests/unit/snapshot-maker", *arguments], check=True, timeout=60)


@pytest.fixture
def snap(tmp_path):
    """A snapshot of two blocks, "ram" (300 pages) and "hot0" (8 MiB)."""
    image(tmp_path / "ram.img", 300, 0.6, 1)
    image(tmp_path / "hot0.img", 2048, 0.1, 2)
    make(tmp_path / "one.snap", f"ram={tmp_path}/ram.img", f"hot0={tmp_path}/hot0.img")
    return tmp_path / "one.snap"


@pytest.fixture
def chain(snap, tmp_path):
    """A snapshot on top of `snap`, with some pages of "ram" changed, one of them to zeros."""
    content = bytearray((tmp_path / "ram.img").read_bytes())
    for page in (3, 64, 65, 299):
        content[page * PAGE:(page + 1) * PAGE] = bytes([page % 251 + 1]) * PAGE
    content[:PAGE] = bytes(PAGE)
    (tmp_path / "new.img").write_bytes(content)
    make(tmp_path / "top.snap", "--base", snap, f"ram={tmp_path}/new.img", f"hot0={tmp_path}/hot0.img")
    return tmp_path / "top.snap"


def test_second_reader_agrees(snap, tmp_path):
    second = Snapshot(snap)
    second.check_godwit()
    for name in ("ram", "hot0"):
        assert second.read(name) == (tmp_path / f"{name}.img").read_bytes()


def test_second_reader_agrees_on_a_chain(chain, snap, tmp_path):
    second = Snapshot(chain)
    second.check_godwit()
    assert "x-godwit-base" in second.capabilities
    assert second.read("ram", Snapshot(snap)) == (tmp_path / "new.img").read_bytes()


def test_direct_writes_the_same(snap, tmp_path):
    probe = subprocess.run(["dd", "if=/dev/zero", f"of={tmp_path}/probe", "bs=4096", "count=1", "oflag=direct"],
                           capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no direct I/O in the folder for tests")
    make("--direct", tmp_path / "two.snap", f"ram={tmp_path}/ram.img", f"hot0={tmp_path}/hot0.img")
    assert Snapshot(tmp_path / "two.snap").read("ram") == Snapshot(snap).read("ram")


def test_info(godwit, snap):
    said = json.loads(godwit("snapshot", "info", "--json", snap).stdout)
    assert said["machine"] == "godwit-1" and said["writer"] == "godwit"
    assert said["size"] == os.path.getsize(snap)
    ram, hot = said["blocks"]
    assert ram["size"] == 300 * PAGE == ram["stored"] + ram["zero"]
    assert hot["unplugged"] == 4 * MIB
    assert "godwit/memory" in [section["name"] for section in said["sections"]]
    table = godwit("snapshot", "info", snap).stdout
    assert re.search(r"^ram +1\.17 MiB ", table, re.MULTILINE)


def test_info_of_a_chain_needs_no_base(godwit, chain, snap):
    snap.unlink()
    said = json.loads(godwit("snapshot", "info", "--json", chain).stdout)
    assert said["base"]["path"] == "one.snap"
    assert said["blocks"][0]["stored"] == 4 * PAGE


def test_map_is_a_drawing(godwit, chain, tmp_path):
    assert godwit("snapshot", "info", chain, "--map", tmp_path / "map.svg").returncode == 0
    text = (tmp_path / "map.svg").read_text()
    xml.etree.ElementTree.fromstring(text)
    for kind in ("changed since the base", "as in the base", "zero", "unplugged"):
        assert kind in text


def test_map_overwrites_nothing(refused, snap):
    before = snap.read_bytes()
    assert refused("snapshot", "info", snap, "--map", snap, status=1).endswith("remove it, or give another name")
    assert snap.read_bytes() == before


def test_verify(godwit, snap, chain):
    for file in (snap, chain):
        result = godwit("snapshot", "verify", file, "--threads", "3")
        assert result.returncode == 0, result.stderr
        assert "is whole" in result.stdout


def test_verify_finds_a_changed_page(refused, snap):
    second = Snapshot(snap)
    page = next(page for page in range(100, 300) if second.block("ram").stored(page))
    with open(snap, "r+b") as stream:
        stream.seek(second.block("ram").pages_offset + page * PAGE + 11)
        stream.write(b"!")
    line = refused("snapshot", "verify", snap, status=1)
    chunk = page // 64 * 64 * PAGE
    assert f"block ram: the 262144 bytes at {chunk:#x}" in line or f"at {chunk:#x} (file offset" in line


def test_verify_finds_a_punched_hole(refused, snap):
    second = Snapshot(snap)
    subprocess.run(["fallocate", "--punch-hole", "--offset", str(second.block("hot0").pages_offset), "--length",
                    str(4 * MIB), snap], check=True)
    assert "pieces of 256 KiB are bad, the first: " in refused("snapshot", "verify", snap, status=1)


def test_missing_base_is_refused_by_name(refused, chain, snap):
    snap.unlink()
    line = refused("snapshot", "verify", chain, status=1)
    assert f"{chain} builds on one.snap: " in line and "No such file" in line


def test_export_raw(godwit, chain, tmp_path):
    out = tmp_path / "out.img"
    assert godwit("snapshot", "export", chain, out, "--raw", "ram").returncode == 0
    assert out.read_bytes() == (tmp_path / "new.img").read_bytes()
    assert out.stat().st_mode & 0o777 == 0o600


def test_export_overwrites_nothing(refused, snap):
    assert refused("snapshot", "export", snap, snap, "--raw", "ram", status=1).endswith("give another name")


def test_export_leaves_nothing_of_a_damaged_snapshot(refused, snap, tmp_path):
    with open(snap, "r+b") as stream:
        second = Snapshot(snap)
        page = next(page for page in range(100, 300) if second.block("ram").stored(page))
        stream.seek(second.block("ram").pages_offset + page * PAGE)
        stream.write(b"\0" * 64)
    refused("snapshot", "export", snap, tmp_path / "out.img", "--raw", "ram", status=1)
    assert not (tmp_path / "out.img").exists()


def test_export_wants_to_know_what(refused, snap, tmp_path):
    wanted = "godwit snapshot export: give one of --elf and --raw BLOCK: what to export"
    assert refused("snapshot", "export", snap, tmp_path / "out") == wanted
    assert refused("snapshot", "export", snap, tmp_path / "out", "--elf", "--raw", "ram") == wanted
    assert refused("snapshot", "export", snap, tmp_path / "out", "--raw", "rom", status=1).endswith("did you mean ram")


def test_core_file_has_the_memory(godwit, snap, tmp_path):
    core = tmp_path / "core"
    assert godwit("snapshot", "export", snap, core, "--elf").returncode == 0
    if not shutil.which("readelf"):
        pytest.skip("no readelf")
    said = subprocess.run(["readelf", "-lW", core], capture_output=True, text=True, check=True)
    assert said.stderr == ""
    loads = [[int(word, 16) for word in line.split()[1:6]] for line in said.stdout.splitlines() if "LOAD" in line]
    content = core.read_bytes()
    assert [content[offset:offset + size] for offset, _, _, size, _ in loads] == [
        (tmp_path / "ram.img").read_bytes(), (tmp_path / "hot0.img").read_bytes()]
    assert [address for _, _, address, _, _ in loads] == [0, 300 * PAGE]


def test_gdb_reads_the_core_file(godwit, snap, tmp_path):
    if not shutil.which("gdb"):
        pytest.skip("no gdb")
    core = tmp_path / "core"
    godwit("snapshot", "export", snap, core, "--elf")
    word = 300 * PAGE - 8
    said = subprocess.run(["gdb", "--nx", "--batch", "-ex", f"core-file {core}", "-ex", f"x/1gx {word}"],
                          capture_output=True, text=True, check=False)
    value = int.from_bytes((tmp_path / "ram.img").read_bytes()[word:word + 8], "little")
    assert f"0x{value:016x}" in said.stdout, said.stdout + said.stderr


def test_flatten(godwit, chain, snap, tmp_path):
    assert godwit("snapshot", "flatten", chain, tmp_path / "flat.snap").returncode == 0
    assert godwit("snapshot", "diff", chain, tmp_path / "flat.snap").returncode == 0
    snap.unlink()
    assert godwit("snapshot", "verify", tmp_path / "flat.snap").returncode == 0
    Snapshot(tmp_path / "flat.snap").check_godwit()


def test_flatten_in_place(godwit, chain, snap, tmp_path):
    assert godwit("snapshot", "flatten", chain, chain).returncode == 0
    snap.unlink()
    assert Snapshot(chain).read("ram") == (tmp_path / "new.img").read_bytes()
    assert godwit("snapshot", "verify", chain).returncode == 0


def test_diff_counts_pages(godwit, snap, chain):
    result = godwit("snapshot", "diff", "--json", snap, chain)
    assert result.returncode == 1
    said = json.loads(result.stdout)
    before, after = Snapshot(snap).read("ram"), Snapshot(chain).read("ram", Snapshot(snap))
    different = sum(before[at:at + PAGE] != after[at:at + PAGE] for at in range(0, len(before), PAGE))
    assert said["pages"] == different >= 4
    assert said["sections"] == []
    assert f"block ram: {different} of 300 pages are different" in godwit("snapshot", "diff", snap, chain).stdout


def test_diff_of_the_same_says_nothing(godwit, snap):
    result = godwit("snapshot", "diff", snap, snap)
    assert (result.returncode, result.stdout) == (0, "")


def test_diff_names_sections(godwit, snap, tmp_path):
    make(tmp_path / "other.snap", f"ram={tmp_path}/ram.img")
    said = godwit("snapshot", "diff", snap, tmp_path / "other.snap").stdout
    assert "block hot0: 8.00 MiB, only in the first file\n" in said
    assert "section godwit/plugged: only in the first file\n" in said
    assert re.search(r"^section godwit/memory: different from byte 3 on", said, re.MULTILINE)


def test_actions_are_suggested(refused):
    assert refused("snapshot", "varify", "x") == "godwit snapshot: unknown action 'varify': did you mean 'verify'?"
    assert refused("snapshot") == "godwit snapshot: an action is missing: 'godwit help snapshot' lists them"
