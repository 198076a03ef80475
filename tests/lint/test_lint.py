# SPDX-License-Identifier: BSD-2-Clause
"""What a reader should not have to look for: formatting, head comments, sizes, words that betray a machine."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.vm import REPOSITORY


def tracked(*patterns):
    output = subprocess.run(["git", "ls-files", *patterns], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [REPOSITORY / line for line in output.stdout.splitlines()]


def test_c_files_are_formatted():
    files = [str(path) for path in tracked("*.c", "*.h")]
    result = subprocess.run(["clang-format", "--dry-run", "--Werror", *files], capture_output=True, text=True)
    bad = sorted({line.split(":")[0] for line in result.stderr.splitlines() if "error:" in line})
    assert not bad, f"run clang-format -i on {bad}"


def test_every_file_has_a_licence_and_says_what_it_is():
    bad = []
    for path in tracked("*.c", "*.h"):
        head = path.read_text().split("\n", 3)
        # What is part of a guest's kernel has that kernel's licence.
        licence = r"\(*GPL-2\.0" if path.is_relative_to(REPOSITORY / "guest") else "BSD-2-Clause"
        if not re.match(rf"(/\*|//) SPDX-License-Identifier: {licence}", head[0]) or not re.match(r"/[/*]", head[1]):
            bad.append(str(path))
    assert not bad


def test_long_files_say_why():
    bad = []
    for path in tracked("src/*.c", "src/*.h"):
        text = path.read_text()
        if text.count("\n") > 800 and "lines because" not in text[:3000]:
            bad.append(str(path))
    assert not bad


def test_library_code_never_ends_the_process():
    call = re.compile(r"\b(exit|_exit|abort|die)\(")
    bad = []
    for path in tracked("src/*.c"):
        if "src/cli/" in str(path):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if call.search(line) and not line.lstrip().startswith(("*", "/*")):
                bad.append(f"{path}:{number}")
    assert not bad


def test_nothing_is_left_to_do():
    mark = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b")
    assert not [str(path) for path in tracked("*.c", "*.h", "*.py", "*.sh", "meson.build", "Makefile")
                if mark.search(path.read_text())]


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shell_scripts_pass_shellcheck():
    scripts = [path for path in tracked("tools/*", "tests/*", "bench/*", "fuzz/*", ".ci/run")
               if path.is_file() and re.match(rb"#!.*\b(ba)?sh\b", path.read_bytes()[:64])]
    assert scripts
    result = subprocess.run(["shellcheck", "-x", *map(str, scripts)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]


# cppcheck does not know the cleanup attribute (leaks are the sanitizers' business), nor statement expressions.
UNKNOWN_TO_CPPCHECK = ["memleak", "resourceLeak", "internalAstError", "returnDanglingLifetime", "missingInclude",
                        "varFuncNullUB"]


def test_cppcheck_finds_nothing():
    result = subprocess.run(
        ["cppcheck", "--quiet", "--enable=warning,portability", "--inline-suppr", "--error-exitcode=1", "-j2",
         *[f"--suppress={name}" for name in UNKNOWN_TO_CPPCHECK], "--std=c11", "-Isrc", "src"],
        cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
