# SPDX-License-Identifier: BSD-2-Clause
"""The floors of the source tree: lower ones never include upper ones, and each library links alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_floors
from support.vm import BUILD, REPOSITORY


def test_no_floor_includes_an_upper_one():
    assert check_floors.check_includes(REPOSITORY / "src") == []


def test_each_library_links_with_the_floors_below_it_alone():
    assert check_floors.archives(BUILD, "memory"), "not built"
    assert check_floors.check_links(BUILD) == []


def test_an_include_of_an_upper_floor_is_found(tmp_path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "x.c").write_text('#include "base/error.h"\n#include "kvm/vm.h"\n')
    violations = check_floors.check_includes(tmp_path)
    assert len(violations) == 1 and "includes kvm/" in violations[0]


def test_a_folder_that_is_no_floor_is_found(tmp_path):
    (tmp_path / "attic").mkdir()
    assert "is no floor" in check_floors.check_includes(tmp_path)[0]
