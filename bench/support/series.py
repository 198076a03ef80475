# SPDX-License-Identifier: BSD-2-Clause
"""Repeated measurements and what is said of them: the median, and how far they lie apart.

Two machines are measured in turns, A B B A A B B A …, so that a host that slows down or warms up does so for both.
"""

import statistics


def turns(rounds):
    """Yields (0, 1), (1, 0), (0, 1), …: who goes first in each of the rounds."""
    for number in range(rounds):
        yield (0, 1) if number % 2 == 0 else (1, 0)


class Series:
    """Values of one quantity of one machine."""

    def __init__(self, *values):
        self.values = list(values)

    def add(self, value):
        self.values.append(value)

    @property
    def median(self):
        return statistics.median(self.values)

    def as_json(self):
        return {"median": self.median if self.values else None, "values": self.values}


class Pair:
    """One quantity of both machines: first godwit's, then the other's."""

    def __init__(self, ours=None, theirs=None, more=False):
        """@more: the more the better, as with a speed."""
        self.sides, self.more = (ours or Series(), theirs or Series()), more

    @property
    def ratio(self):
        """How much less godwit needs, or how much more it reaches: above 1 it is ahead. None: nothing to divide by."""
        if not self.sides[1].values:
            return None
        ours, theirs = (side.median for side in self.sides)
        if self.more:
            ours, theirs = theirs, ours
        return theirs / ours if ours else None
