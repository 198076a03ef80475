# SPDX-License-Identifier: BSD-2-Clause
"""Which features a machine can have together, and the test that proves each pair: the source of docs/composition.md.

A feature that comes new is a value of a dimension, or a dimension of its own, whose case in tests/stock/test_composition.py then
has something to do. Pairs of one dimension need an entry in OTHER; pairs that are refused, one in REFUSED. After a change,
`tools/composition --write` brings the manual up to date; tests/lint/test_composition.py notices when that was forgotten.
"""

from itertools import combinations

from support.pairwise import cover, pairs_of

DIMENSIONS = {
    "backing": ("memfd", "anon", "hugetlb-2M", "file"),
    "block": ("4K", "2M", "128M"),
    "nodes": (1, 2),
    "vcpus": (1, 4),
    "kernel": ("6.12", "6.1"),
    "event": ("reboot", "kexec"),
    "auto": ("off", "on"),
}

LABELS = {"nodes": lambda value: f"{value} node{'s' * (value > 1)}", "vcpus": lambda value: f"{value} vCPU{'s' * (value > 1)}",
          "block": lambda value: f"block {value}", "auto": lambda value: f"auto {value}"}

STOCK = "tests/stock/"

# Pairs of different dimensions that godwit refuses, with the test that expects the refusal and its words.
REFUSED = {
    (("backing", "hugetlb-2M"), ("block", "4K")):
        (f"{STOCK}test_composition.py::test_a_block_smaller_than_a_huge_page_is_refused",
         "block=4K is smaller than a page of the backing, 2M"),
}

KINDS = f"{STOCK}test_elastic.py::TestKinds::test_every_backing_works_with_every_block_size"

# Pairs of one dimension: one machine has both, or (None) it has either the one or the other.
OTHER = {
    **{(("backing", a), ("backing", b)): KINDS for a, b in combinations(DIMENSIONS["backing"], 2)},
    **{(("block", a), ("block", b)): KINDS for a, b in combinations(DIMENSIONS["block"], 2)},
    (("nodes", 1), ("nodes", 2)): None,
    (("vcpus", 1), ("vcpus", 4)): None,
    (("kernel", "6.12"), ("kernel", "6.1")): f"{STOCK}test_reset_kexec.py::test_one_kernel_starts_the_other",
    (("event", "reboot"), ("event", "kexec")):
        f"{STOCK}test_reset_kexec.py::TestKexec::test_a_second_kernel_without_the_driver_sees_boot_memory_only",
    (("auto", "off"), ("auto", "on")):
        f"{STOCK}test_composition.py::test_an_automatic_device_works_beside_one_that_an_operator_resizes",
}

CASES = cover(DIMENSIONS, REFUSED)
CASE_TEST = f"{STOCK}test_composition.py::test_features_work_together"


def case_id(case):
    """The name of a case as pytest shows it."""
    return "-".join(label(*feature).replace(" ", "") for feature in case.items())


def label(dimension, value):
    return LABELS.get(dimension, str)(value)


def features():
    return [(dimension, value) for dimension, values in DIMENSIONS.items() for value in values]


def proof(first, second):
    """What is said of two features (in the order of features()): ("case", its number), ("test", its name), ("refused",
    (test, words)), or ("either", None). KeyError where nothing is said.
    """
    pair = (first, second)
    if pair in REFUSED:
        return "refused", REFUSED[pair]
    if first[0] == second[0]:
        return ("test", OTHER[pair]) if OTHER[pair] else ("either", None)
    for number, case in enumerate(CASES, 1):
        if pair in pairs_of(case):
            return "case", number
    raise KeyError(pair)


def tests():
    """All tests that the manual names, as FILE::[CLASS::]FUNCTION."""
    return sorted({CASE_TEST, *(test for test, _ in REFUSED.values()), *filter(None, OTHER.values())})


def table():
    """The generated part of the manual, in Markdown."""
    columns = features()
    notes = []

    def note(text):
        if text not in notes:
            notes.append(text)
        return chr(ord("a") + notes.index(text))

    def cell(row, column):
        kind, what = proof(column, row)
        if kind == "case":
            return str(what)
        if kind == "test":
            return note(f"`{what}`")
        if kind == "refused":
            return "**no** " + note(f"refused: \"{what[1]}\"; `{what[0]}`")
        return "–"

    lines = ["| | " + " | ".join(label(*feature) for feature in columns[:-1]) + " |",
             "|---|" + "---|" * (len(columns) - 1)]
    for position, row in enumerate(columns[1:], 1):
        cells = [cell(row, column) for column in columns[:position]]
        cells += [""] * (len(columns) - 1 - position)
        lines.append(f"| **{label(*row)}** | " + " | ".join(cells) + " |")
    lines += ["", f"Numbers are cases of `{CASE_TEST}`:", ""]
    lines += ["| case | " + " | ".join(DIMENSIONS) + " |", "|---|" + "---|" * len(DIMENSIONS)]
    for number, case in enumerate(CASES, 1):
        lines.append(f"| {number} | " + " | ".join(str(case[name]) for name in DIMENSIONS) + " |")
    lines += ["", "Letters are tests of their own:", ""]
    lines += [f"- **{chr(ord('a') + number)}**: {text}" for number, text in enumerate(notes)]
    return "\n".join(lines) + "\n"
