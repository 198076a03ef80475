# SPDX-License-Identifier: BSD-2-Clause
"""What the program says of itself."""

import subprocess

from support.vm import GODWIT


def subcommands():
    """The names that `godwit help` lists."""
    text = subprocess.run([GODWIT, "help"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in text.splitlines() if line.startswith("  ")]


def options_of(subcommand):
    """The options that `godwit help SUBCOMMAND` lists, with whether they take a value."""
    text = subprocess.run([GODWIT, "help", subcommand], capture_output=True, text=True, check=True).stdout
    lines = [line[2:].split("  ")[0].rstrip() for line in text.splitlines() if line.startswith("  --")]
    return {line.split()[0][2:]: " " in line for line in lines}
