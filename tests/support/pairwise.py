# SPDX-License-Identifier: BSD-2-Clause
"""Covering arrays of strength two: few cases in which every pair of values of different dimensions occurs.

Bugs that need two features are found as by all combinations, which would be hundreds of machines. The result depends on nothing
but the arguments, so that a case keeps its name from run to run.
"""

from itertools import combinations, product


def pairs_of(case):
    """All pairs of a case, {dimension: value}, as ((dimension, value), (dimension, value)) in the order of its dimensions."""
    return list(combinations(case.items(), 2))


def all_pairs(dimensions):
    """All pairs of values of different dimensions; dimensions: {name: values}."""
    return [((a, x), (b, y)) for a, b in combinations(dimensions, 2) for x, y in product(dimensions[a], dimensions[b])]


def cover(dimensions, forbidden=()):
    """Cases, {dimension: value}, that hold every pair but the forbidden ones, and none of these.

    Greedy: a case begins with the first pair that is missing; then each dimension takes the value that adds most missing pairs,
    of equals the one that was taken least,
    then the first. Fails if a pair that is allowed fits into no case.
    """
    forbidden = set(forbidden)
    missing = [pair for pair in all_pairs(dimensions) if pair not in forbidden]
    cases = []
    while missing:
        case = dict(missing[0])
        for name in [name for name in dimensions if name not in case]:
            best = None
            for value in dimensions[name]:
                trial = {key: {**case, name: value}[key] for key in dimensions if key in case or key == name}
                pairs = set(pairs_of(trial))
                gain = sum(pair in pairs for pair in missing), -sum(other[name] == value for other in cases)
                if not pairs & forbidden and (best is None or gain > best[0]):
                    best = (gain, trial)
            assert best, f"no value of {name} goes with {case}"
            case = best[1]
        held = set(pairs_of(case))
        missing = [pair for pair in missing if pair not in held]
        cases.append(case)
    return cases
