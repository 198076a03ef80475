# SPDX-License-Identifier: BSD-2-Clause
"""Side-by-side tables: as text for a terminal, as Markdown for docs/benchmarks.md, as data for --json."""

import textwrap

from bench.support.series import Pair, Series

UNITS = {"s": lambda value: f"{value:.2f} s",
         "ms": lambda value: f"{value * 1000:,.0f} ms",
         "cpu": lambda value: f"{value:.3f} s",
         "µs": lambda value: f"{value:,.1f} µs",
         "Gb/s": lambda value: f"{value:,.1f} Gb/s",
         "MiB/s": lambda value: f"{value:,.0f} MiB/s",
         "MiB": lambda value: f"{value / (1 << 20):,.1f} MiB",
         "": lambda value: f"{value:,.0f}"}


class Table:
    """Rows of (what is measured, its unit, a Pair); notes stand below. @other: what godwit stands beside."""

    def __init__(self, title, notes=(), other="QEMU"):
        self.title, self.notes, self.other, self.rows = title, list(notes), other, []

    def add(self, what, unit, pair):
        row = (what, unit, pair)
        self.rows.append(row)
        return row

    def add_counts(self, what, counts, key, unit=""):
        """A row of what was counted once: @counts has a dictionary of each side."""
        return self.add(what, unit, Pair(Series(counts[0][key]), Series(counts[1][key])))

    def add_alone(self, what, unit, series):
        """A row that only godwit has."""
        return self.add(what, unit, Pair(series, Series()))

    def cells(self):
        yield (self.title, "godwit", self.other, "ratio")
        for what, unit, pair in self.rows:
            yield cells_of(what, unit, pair)

    def as_text(self):
        rows = list(self.cells())
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                           for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def as_markdown(self):
        rows = ["| " + " | ".join(row) + " |" for row in self.cells()]
        rows.insert(1, "|---|--:|--:|--:|")
        notes = ["", *(line for note in self.notes
                       for line in textwrap.wrap(note, 118, initial_indent="- ", subsequent_indent="  "))]
        return "\n".join(rows + (notes if self.notes else []))

    def as_json(self):
        """Sizes in bytes and times in seconds, whatever unit they are shown in."""
        return {"title": self.title, "notes": self.notes, "other": self.other,
                "rows": [{"what": what, "unit": unit, "godwit": pair.sides[0].as_json(),
                          "other": pair.sides[1].as_json(), "more": pair.more, "ratio": pair.ratio} for what, unit, pair in self.rows]}

    @classmethod
    def from_json(cls, data):
        table = cls(data["title"], data["notes"], data["other"])
        for row in data["rows"]:
            table.add(row["what"], row["unit"],
                      Pair(Series(*row["godwit"]["values"]), Series(*row["other"]["values"]), row["more"]))
        return table


def cells_of(what, unit, pair):
    ratio = "–" if pair.ratio is None else f"{pair.ratio:.2f}"
    return (what, *(show(side, unit) for side in pair.sides), ratio)


def show(series, unit):
    """The median, and the least and the most where there were several and they differ."""
    if not series.values:
        return "–"
    text = UNITS[unit](series.median)
    low, high = (UNITS[unit](bound(series.values)).split()[0] for bound in (min, max))
    return f"{text} ({low}–{high})" if low != high else text
