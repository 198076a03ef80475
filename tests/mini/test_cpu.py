# SPDX-License-Identifier: BSD-2-Clause
"""Levels of processors, `--cpu`: what a guest sees of them, and hosts that lack something."""

import json
import re

import pytest

from support.migration_proxy import Proxy
from mini_move import COUNTING, Destination, Source, check_stayed
from mini_machine import LIMIT, Original, refused

# The words of the psABI: its levels' features, and where CPUID tells of them.
LEVELS = {
    1: {"cmov": ("1.edx", 15), "cx8": ("1.edx", 8), "fpu": ("1.edx", 0), "fxsr": ("1.edx", 24), "mmx": ("1.edx", 23),
        "sse": ("1.edx", 25), "sse2": ("1.edx", 26), "lm": ("ext.edx", 29)},
    2: {"cx16": ("1.ecx", 13), "lahf-lm": ("ext.ecx", 0), "popcnt": ("1.ecx", 23), "sse3": ("1.ecx", 0),
        "sse4-1": ("1.ecx", 19), "sse4-2": ("1.ecx", 20), "ssse3": ("1.ecx", 9)},
    3: {"avx": ("1.ecx", 28), "avx2": ("7.ebx", 5), "bmi1": ("7.ebx", 3), "bmi2": ("7.ebx", 8), "f16c": ("1.ecx", 29),
        "fma": ("1.ecx", 12), "lzcnt": ("ext.ecx", 5), "movbe": ("1.ecx", 22), "xsave": ("1.ecx", 26)},
    4: {"avx512f": ("7.ebx", 16), "avx512bw": ("7.ebx", 30), "avx512cd": ("7.ebx", 28), "avx512dq": ("7.ebx", 17),
        "avx512vl": ("7.ebx", 31)},
}
# Mirrored leaf 1 bits, and what else a level may have where the host has it.
ANY = {"1.ecx": 0x81200000, "1.edx": 0x078bfbff, "7.ebx": 1 << 1, "kvm.eax": 0x01007efb, "ext.ecx": 1 << 22 | 1 << 1,
       "ext.edx": 0x20100800 | 0x0183f3ff}
KNOWN = {name: place for level in LEVELS.values() for name, place in level.items()}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a guest on a model sees; the refusal, a text, where the host cannot be one."""
    def see(model):
        with Original(tmp_path_factory.mktemp("processor"), "processor", *([f"--cpu={model}"] if model else [])) as guest:
            if guest.wait(LIMIT):
                return guest.stderr()
            return {name: int(value) for name, value in re.findall("^([^ \n]+) ([0-9]+)$", guest.text(), re.MULTILINE)}
    return see


def missing(said):
    return re.search("has features that this host or its KVM lacks: (.+)", said).group(1).split(", ")


@pytest.fixture(scope="module")
def host(seen):
    words, highest = seen("host"), seen("x86-64-v4")
    shown = [name for name in (missing(highest) if isinstance(highest, str) else []) if words[KNOWN[name][0]] >> KNOWN[name][1] & 1]
    if shown:
        pytest.skip("this KVM shows guests what it says that it does not support: " + ", ".join(shown))
    return words


def test_the_host_is_what_there_is_without_a_word(seen, host):
    assert seen(None) == host


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_what_its_name_says_or_is_refused_with_what_is_missing(seen, host, level):
    words = seen(f"x86-64-v{level}")
    if isinstance(words, str):
        assert f"the processor 'x86-64-v{level}' has features" in words
        assert set(missing(words)) == {name for number in range(1, level + 1) for name, (word, bit) in LEVELS[number].items()
                                       if not host[word] >> bit & 1}
        return
    allowed = dict(ANY)
    for number, features in LEVELS.items():
        for name, (word, bit) in features.items():
            assert (words[word] >> bit & 1) == (number <= level), name
            allowed[word] |= (number <= level) << bit
    for word in ("1.ecx", "1.edx", "7.ebx", "7.ecx", "7.edx", "7.1.eax", "d.1.eax", "kvm.eax", "ext.ecx", "ext.edx", "sizes.ebx"):
        assert words[word] & ~allowed.get(word, 0) & ~(1 << 27 if word == "1.ecx" else 0) == 0, word
    assert words["d.eax"] == {1: 0, 2: 0, 3: 7, 4: 0xe7}[level]
    assert (words["avx"], words["avx512"]) == (level >= 3, level >= 4)
    assert words["sizes"] & 0xff <= 40
    assert words["sizes"] >> 8 & 0xff == 48


def test_a_feature_can_be_taken_away(seen, host):
    assert host["1.edx"] >> 23 & 1  # MMX, which every host has
    words = seen("host,-mmx")
    assert not words["1.edx"] >> 23 & 1
    assert words["ext.edx"] & 1 << 31 == 0
    assert words["1.ecx"] == host["1.ecx"]
    assert words["7.ebx"] == host["7.ebx"]


def test_the_level_goes_along_into_a_file(tmp_path):
    with Original(tmp_path, "counting", "--cpu=x86-64-v1,-vme", cmdline=COUNTING) as original:
        original.wait_lines(1)
        original.save(tmp_path / "file")
        head = original.cli("snapshot", "info", "--json", tmp_path / "file").stdout
        assert json.loads(head)["configuration"]["cpu"] == "x86-64-v1,-vme"


# KVM never offers MONITOR, and a level that has it can be nobody's.
LACKED = "x86-64-v1,+monitor"
SAID = f"the processor '{LACKED}' has features that this host or its KVM lacks: monitor"


def test_a_host_that_lacks_a_feature_is_refused_before_anything_is_sent(tmp_path):
    def alter(name, body):
        if name != "CONFIG":
            return body
        machine = json.loads(body)
        assert machine["configuration"]["cpu"] == "x86-64-v1"
        machine["configuration"]["cpu"] = LACKED
        return json.dumps(machine).encode()

    with Source(tmp_path, "counting", "--cpu=x86-64-v1", cmdline=COUNTING) as source, \
            Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
        destination.wait_said("waiting for a VM")
        with Proxy(tmp_path / "proxy", tmp_path / "socket", alter=alter) as proxy:
            assert f"the destination refuses: {SAID}" in refused(source.migrate(f"unix:{tmp_path}/proxy", check=False))
            assert destination.wait(60) == 1
            assert SAID in destination.stderr()
            assert "ACCEPT" not in proxy.seen
        check_stayed(source, destination)


def test_a_guest_sees_the_same_processor_at_the_destination(tmp_path):
    with Source(tmp_path, "processor", "--cpu=x86-64-v1", cmdline="rounds=60") as source, \
            Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
        source.wait_text(lambda text: "round 3\n" in text)
        destination.wait_said("waiting for a VM")
        source.migrate(f"unix:{tmp_path}/socket")
        assert source.wait(60) == 0
        destination.finish()
        text = source.text() + destination.text()
        assert "FAIL" not in text
        assert [int(n) for n in re.findall("^round ([0-9]+)$", text, re.MULTILINE)] == list(range(1, 61))
        assert "round" in destination.text()


@pytest.mark.parametrize("model,said", [
    ("x86-64-v9", "--cpu: 'x86-64-v9' is none of host, x86-64-v1"),
    ("x86-64-v1,+avx2", "--cpu: +avx2 needs avx, which x86-64-v1 does not have: add +avx"),
    ("host,+warp", "--cpu: 'warp' is not the name of a feature that can be chosen"),
])
def test_models_that_mean_nothing_are_refused(tmp_path, model, said):
    with Original(tmp_path, "processor", f"--cpu={model}") as guest:
        assert guest.wait() == 2
        assert said in guest.stderr()
