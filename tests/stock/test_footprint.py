# SPDX-License-Identifier: BSD-2-Clause
"""What a machine costs the host beyond its guest's pages.

Counted is, from /proc/PID/smaps, every resident page of the process outside of the mappings of guest memory: code, heap,
stacks, shared libraries. Pages shared with other processes count whole, as if this machine were the host's only one.
Swapped pages count too, and so do all page tables (VmPTE), those of guest memory among them. Not counted is what the
host's kernel keeps for KVM (its nested page tables, some hundred KiB for a small guest): no interface tells it for one process.
"""

import re
from pathlib import Path

import pytest

from support.stock import StockGuest
from support.vm import KIB, MIB

BOUND = 5 * MIB
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)$")


def own_memory(guest):
    """Bytes by what they are for, and the bytes of guest memory that were left out."""
    own, left_out, name = {}, 0, ""
    for line in Path(f"/proc/{guest.process.pid}/smaps").read_text().splitlines():
        mapping = MAPPING.match(line)
        if mapping:
            name = mapping.group(1)
            continue
        key, value = line.split(":", 1)
        if key not in ("Rss", "Swap", "Private_Hugetlb", "Shared_Hugetlb"):
            continue
        size = int(value.split()[0]) * KIB
        if name.startswith("/memfd:memory"):
            left_out += size
        else:
            kind = ("libraries" if ".so" in name else "program" if name.startswith("/") else
                    "heap" if name == "[heap]" else "stacks and other")
            own[kind] = own.get(kind, 0) + size
    own["page tables"] = guest.host_memory()["VmPTE"]
    return own, left_out


@pytest.mark.parametrize("devices", ["no", "all"])
def test_a_machine_of_128_mib_holds_at_most_5_mib_for_itself(record_property, devices, tmp_path):
    more = []
    if devices == "all":
        (tmp_path / "disk").write_bytes(bytes(MIB))
        more = ["--elastic", "id=mem0,max=64G", "--disk", tmp_path / "disk", "--balloon",
                "--vsock", f"cid=3,path={tmp_path}/vsock"]
    with StockGuest(*more, memory="128M") as guest:
        guest.wait_ready()
        guest.sh("head -c 16m /dev/zero | md5sum")
        own, left_out = own_memory(guest)
        # Guest memory was found, or the sum is wrong; and what the program says of itself agrees.
        assert 40 * MIB < left_out <= 128 * MIB
        total = sum(own.values())
        said = guest.qmp.command("godwit-memory")["vmm"]
        assert abs(said["resident"] + said["page-tables"] - total) < MIB / 2
        parts = ", ".join(f"{kind} {size // KIB} KiB" for kind, size in sorted(own.items(), key=lambda item: -item[1]))
        record_property("measured", f"{total / MIB:.2f} MiB held for a 1-vCPU 128 MiB guest with {devices} devices beside "
                                    f"the console ({parts})")
        assert total <= BOUND, parts
        assert guest.power_off() == 0
