# SPDX-License-Identifier: BSD-2-Clause
"""docs/composition.md says something true of every pair of features."""

import ast
import re
import subprocess
from itertools import combinations

import pytest

from support import composition, pairwise
from support.vm import REPOSITORY

SMALL = {"a": (1, 2, 3), "b": ("x", "y"), "c": (True, False)}


def functions(path):
    """The tests of a file, as FUNCTION or CLASS::FUNCTION."""
    names = set()
    for node in ast.parse((REPOSITORY / path).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


def test_each_pair_of_features_has_a_cell():
    for first, second in combinations(composition.features(), 2):
        composition.proof(first, second)


def test_no_entry_is_left_of_features_that_are_gone():
    pairs = set(combinations(composition.features(), 2))
    assert set(composition.REFUSED) | set(composition.OTHER) <= pairs


@pytest.mark.parametrize("name", composition.tests())
def test_a_test_that_is_named_exists(name):
    path, function = name.split("::", 1)
    assert function in functions(path)


@pytest.mark.parametrize("name", re.findall(r"`(tests/[\w/.]+::\w+(?:::\w+)?)`",
                                            (REPOSITORY / "docs/composition.md").read_text()))
def test_a_test_that_the_manual_names_exists(name):
    path, function = name.split("::", 1)
    assert function in functions(path)


def test_no_case_holds_a_pair_that_is_refused():
    for case in composition.CASES:
        assert not set(pairwise.pairs_of(case)) & set(composition.REFUSED)


def test_the_manual_has_the_table_as_it_is():
    result = subprocess.run([REPOSITORY / "tools/composition", "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_covering_array_covers_each_pair():
    held = {pair for case in pairwise.cover(SMALL) for pair in pairwise.pairs_of(case)}
    assert held == set(pairwise.all_pairs(SMALL))


def test_a_covering_array_leaves_out_what_is_forbidden():
    forbidden = {(("a", 1), ("b", "x")), (("b", "y"), ("c", True))}
    with pytest.raises(AssertionError):
        pairwise.cover(SMALL, forbidden)  # 1 then goes with y only, and y never with True
    forbidden = {(("a", 1), ("b", "x"))}
    held = {pair for case in pairwise.cover(SMALL, forbidden) for pair in pairwise.pairs_of(case)}
    assert held == set(pairwise.all_pairs(SMALL)) - forbidden


def test_a_covering_array_is_the_same_each_time():
    assert pairwise.cover(SMALL) == pairwise.cover(SMALL)
    assert len(pairwise.cover(SMALL)) <= 7
