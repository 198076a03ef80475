# SPDX-License-Identifier: BSD-2-Clause
"""On a KVM that counts each processor's faults only those that write are slowed; with a mini-guest, which needs no time to start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "mini"))

from test_auto_converge import check_uneven  # noqa: E402


def test_who_does_not_write_is_not_slowed(tmp_path, record_property):
    word, before, slowed = check_uneven(tmp_path)
    record_property("measured", f"beside 64 pages of the processor that writes the other one counted to {before:.0f}, and to {slowed:.0f} when that was slowed")
    assert word == "those processors most that write most"
    assert slowed > 1.5 * before
