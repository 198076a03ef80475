# SPDX-License-Identifier: BSD-2-Clause
"""What the program says of itself."""

import subprocess

from support.vm import GODWIT


def subcommands():
    """The names that `godwit help` lists."""
    text = subprocess.run([GODWIT, "help"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in text.splitlines() if line.startswith("  ")]


def commands():
    """The subcommands, and behind those that have actions each of these: "snapshot", "snapshot info"."""
    found = []
    for name in subcommands():
        text = subprocess.run([GODWIT, "help", name], capture_output=True, text=True, check=True).stdout
        actions = text.partition("\nactions:\n")[2].partition("\n\n")[0]
        found += [name, *(f"{name} {line.split()[0]}" for line in actions.splitlines())]
    return found


def options_of(command):
    """The options that `godwit help COMMAND` lists, with whether they take a value."""
    text = subprocess.run([GODWIT, "help", *command.split()], capture_output=True, text=True, check=True).stdout
    lines = [line[2:].split("  ")[0].rstrip() for line in text.splitlines() if line.startswith("  --")]
    return {line.split()[0][2:]: " " in line for line in lines}
