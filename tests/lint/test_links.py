# SPDX-License-Identifier: BSD-2-Clause
"""What a document refers to exists."""

import re
import subprocess

import pytest

from support.vm import REPOSITORY

DOCUMENTS = sorted(subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True,
                                  check=True).stdout.split())
CODE = re.compile(r"```.*?```", re.DOTALL)


def text_of(document):
    return CODE.sub("", (REPOSITORY / document).read_text())


def anchors(path):
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (REPOSITORY / document).parent / target if target else REPOSITORY / document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_of_the_tree_that_are_named_exist(document):
    named = re.findall(r"`((?:src|docs|tests|tools|fuzz|bench)/[\w./-]*[\w/])`", text_of(document))
    assert [name for name in named if not (REPOSITORY / name).exists()
            and not any((REPOSITORY / name).parent.glob((REPOSITORY / name).name + ".*"))] == []
