# SPDX-License-Identifier: BSD-2-Clause
"""The words of refusals that the documents quote are those that the program has."""

import re

import pytest

from support.vm import REPOSITORY

LITERAL = r'"((?:[^"\\]|\\.)*)"'
CONVERSION = re.compile(r"%(?:%|[-#0-9.*]*(?:hh|h|ll|l|z|j|t)?[a-zA-Z])")


def formats():
    """Each string of the sources, its pieces joined, and PRI… macros taken for what they stand for."""
    for path in (REPOSITORY / "src").rglob("*.c"):
        text = re.sub(r'"\s*PRI([a-zA-Z])\w+(\s*")?', lambda macro: macro[1] + ("" if macro[2] else '"'),
                      path.read_text())
        for run in re.finditer(rf"{LITERAL}(?:\s*{LITERAL})*", text):
            yield "".join(re.findall(LITERAL, run.group(0))).replace('\\"', '"')


def pattern_of(text):
    """What a format can become."""
    pieces = CONVERSION.split(text)
    return re.compile(".+".join(re.escape(piece) for piece in pieces))


PATTERNS = [pattern_of(text) for text in formats() if len(CONVERSION.sub("", text)) > 20]


def quoted():
    text = (REPOSITORY / "docs/snapshots.md").read_text()
    section = re.search(r"^## What cannot be done$(.*?)^## ", text, re.MULTILINE | re.DOTALL).group(1)
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith("| | "):
            yield from re.findall(r"`([^`]+)`", line.strip("|").split(" | ", 1)[1])


def test_the_table_is_read():
    assert len(list(quoted())) > 20


@pytest.mark.parametrize("words", quoted())
def test_a_refusal_that_is_quoted_is_one_of_the_program(words):
    assert any(pattern.fullmatch(words) for pattern in PATTERNS), words


def test_other_words_are_noticed():
    assert not any(pattern.fullmatch("--direct is for a restore that is not lazy: leave one out") for pattern in PATTERNS)
