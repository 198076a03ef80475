#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Keeps the floors honest: a folder of src/ includes only floors below it, and each library links with those alone.

Usage: check_floors.py [BUILD]   (without BUILD only the includes are checked)

Prints a line for each violation; the exit status is 1 if there was one. test_floors.py checks that it can fail.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Each floor with the floors it stands on (they bring those below them along).
FLOORS = {
    "base": [],
    "memory": ["base"],
    "kvm": ["memory"],
    "pci": ["base"],
    "snapshot": ["base"],
    "vhost_user": ["base"],
    "rdma": ["base"],
    "blk": ["base"],
    "blk_back_end": ["blk", "vhost_user"],
    "migration": ["memory", "snapshot"],
    "virtio": ["memory", "pci", "vhost_user", "blk", "rdma"],
    "machine": ["kvm", "virtio", "migration"],
    "control": ["machine"],
    "cli": ["control"],
}

# What each library needs from outside.
MIGRATION_LIBRARIES = ["-ljansson", "-lxxhash", "-luring", "-lzstd"]
SYSTEM_LIBRARIES = {"snapshot": ["-ljansson", "-lxxhash"], "migration": MIGRATION_LIBRARIES,
                    "blk": ["-luring"], "blk_back_end": ["-luring"], "virtio": ["-ljansson", "-luring"], "machine": MIGRATION_LIBRARIES, "control": MIGRATION_LIBRARIES}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([a-z0-9_]+)/', re.MULTILINE)


def below(floor):
    """The floor itself and everything it stands on."""
    found = {floor}
    for lower in FLOORS[floor]:
        found |= below(lower)
    return found


def check_includes(source):
    """Violations of the order among the includes of the tree `source` (a path to src/)."""
    violations = []
    folders = sorted(path for path in Path(source).iterdir() if path.is_dir())
    for folder in folders:
        if folder.name not in FLOORS:
            violations.append(f"{folder}: is no floor; add it to FLOORS with the floors below it")
            continue
        allowed = below(folder.name)
        for file in sorted(folder.glob("*.[ch]")):
            for included in INCLUDE.findall(file.read_text()):
                if included not in allowed:
                    violations.append(f"{file}: includes {included}/, which is not below {folder.name}/")
    return violations


def archives(build, floor):
    return sorted(str(path) for path in (Path(build) / "src" / floor).glob("*.a"))


def check_links(build):
    """Floors whose library does not link with the floors below it alone. Every object is linked in whole."""
    violations = []
    for floor in FLOORS:
        if floor == "cli" or not archives(build, floor):
            continue
        lower = [archive for name in sorted(below(floor) - {floor}) for archive in archives(build, name)]
        with tempfile.TemporaryDirectory() as directory:
            command = ["cc", "-shared", "-Wl,-z,defs", "-o", f"{directory}/all.so", "-Wl,--whole-archive",
                       *archives(build, floor), "-Wl,--no-whole-archive", "-Wl,--start-group", *lower,
                       "-Wl,--end-group", *SYSTEM_LIBRARIES.get(floor, []), "-lpthread"]
            result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            first = next((line for line in result.stderr.splitlines() if "undefined" in line), result.stderr)
            violations.append(f"src/{floor} does not link alone: {first.strip()}")
    return violations


def main():
    root = Path(__file__).resolve().parents[2]
    violations = check_includes(root / "src")
    if len(sys.argv) > 1:
        violations += check_links(sys.argv[1])
    for violation in violations:
        print(violation)
    return bool(violations)


if __name__ == "__main__":
    sys.exit(main())
