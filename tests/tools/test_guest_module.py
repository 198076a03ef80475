# SPDX-License-Identifier: BSD-2-Clause
"""The guest driver of the RDMA device: it is built for each kernel without a warning, and its structures are those that
docs/virtio-rdma.md defines and that rxe's user space has.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("GODWIT_CACHE") or REPOSITORY / ".cache")
DRIVER = REPOSITORY / "guest/virtio_rdma"
DOCUMENT = (REPOSITORY / "docs/virtio-rdma.md").read_text()
KERNELS = ["6.1-generic", "6.12-generic"]

# A heading of the document, and the structure that has its table.
STRUCTURES = {
    "Configuration space": "virtio_rdma_config",
    "Events (1)": "virtio_rdma_event",
    "Kick (2)": "virtio_rdma_kick",
    "CREATE_CQ": "virtio_rdma_create_cq",
    "CREATE_SRQ": "virtio_rdma_create_srq",
    "CREATE_QP": "virtio_rdma_create_qp",
    "MODIFY_QP and the answer of QUERY_QP": "virtio_rdma_qp",
    "CREATE_MR": "virtio_rdma_create_mr",
}
# Fields of the one table of commands: command, field, structure.
REQUESTS = {
    "MODIFY_SRQ": "virtio_rdma_modify_srq",
    "EXTEND_MR": "virtio_rdma_extend_mr",
    "CREATE_MW": "virtio_rdma_create_mw",
    "SET_GID": "virtio_rdma_set_gid",
}
SIZES = {"u8": 1, "le16": 2, "le32": 4, "le64": 8}
# Fields of the tables of queues, by the names that rxe has for them.
RXE = {
    "Queues in memory": ("rxe_queue_buf", {
        "log2 of stride": "log2_elem_size", "slots − 1": "index_mask", "producer": "producer_index",
        "consumer": "consumer_index", "elements": "data"}),
    "Send queue": ("rxe_send_wqe", {
        "wr_id": "wr.wr_id", "opcode": "wr.opcode", "send_flags": "wr.send_flags", "immediate": "wr.ex",
        "length": "dma.length", "segment_count": "dma.num_sge", "segments": "dma.sge", "remote QPN": "wr.wr.ud.remote_qpn",
        "remote Q_Key": "wr.wr.ud.remote_qkey", "dmac of the next hop": "wr.wr.ud.av.dmac",
        "dgid": "wr.wr.ud.av.grh.dgid", "flow label": "wr.wr.ud.av.grh.flow_label",
        "sgid_index": "wr.wr.ud.av.grh.sgid_index", "hop limit": "wr.wr.ud.av.grh.hop_limit",
        "traffic class": "wr.wr.ud.av.grh.traffic_class"}),
    "Receive queue, shared receive queue": ("rxe_recv_wqe", {
        "wr_id": "wr_id", "segment_count": "dma.num_sge", "segments": "dma.sge"}),
    "Completion queues": ("ib_uverbs_wc", {
        "wr_id": "wr_id", "status": "status", "opcode": "opcode", "vendor error": "vendor_err", "byte_len": "byte_len",
        "immediate": "ex", "qpn": "qp_num", "source QPN": "src_qp", "flags": "wc_flags", "P_Key index": "pkey_index",
        "port": "port_num"}),
}


def section(heading):
    """The text below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", DOCUMENT, re.S | re.M)
    assert found, f"docs/virtio-rdma.md has no '{heading}'"
    return found.group(1)


def rows(text):
    """Cells of the rows of a text's tables, but headings."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and not set(line) <= set("|-: "):
            yield cells


def fields(text):
    """(offset, type, name) of the rows that say where a field is."""
    return [(int(cells[0]), cells[1], cells[2]) for cells in rows(text) if len(cells) > 2 and cells[0].isdigit()]


def size(kind):
    """Bytes of a type as the document writes it; None: what has no one size."""
    array = re.fullmatch(r"(\w+)\[(\d+)\]", kind)
    if array:
        return SIZES[array.group(1)] * int(array.group(2))
    return SIZES.get(kind)


def compiles(tmp_path, assertions):
    """Compiles assertions about the header with this machine's headers."""
    source = tmp_path / "check.c"
    lines = [f'_Static_assert({condition}, "{text}");' for condition, text in assertions]
    source.write_text('#include <stddef.h>\n#include <linux/types.h>\n#include <rdma/ib_user_verbs.h>\n'
                      f'#include <rdma/rdma_user_rxe.h>\n#include "{DRIVER}/virtio_rdma.h"\n' + "\n".join(lines) + "\n")
    result = subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", source], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[:3000]
    return len(lines)


def at(structure, member, offset, kind=None):
    yield f"offsetof(struct {structure}, {member}) == {offset}", f"{structure}.{member} is at {offset}"
    if kind and size(kind):
        yield f"sizeof(((struct {structure} *)0)->{member}) == {size(kind)}", f"{structure}.{member} is a {kind}"


def test_the_structures_are_those_of_the_document(tmp_path):
    assertions = []
    for heading, structure in STRUCTURES.items():
        found = fields(section(heading))
        assert found, heading
        for offset, kind, name in found:
            if name != "reserved":
                assertions += at(structure, name, offset, kind)
    for cells in rows(section("Commands (0)")):
        for offset, kind, name in re.findall(r"(\d+): (le\d+|u8\[\d+\]) (\w+)", cells[2] if len(cells) > 2 else ""):
            if cells[0] in REQUESTS:
                assertions += at(REQUESTS[cells[0]], name, int(offset), kind)
    for offset, kind, name in fields(section("Send queue").partition("*Registration*:")[2]):
        assertions += at("virtio_rdma_registration", name, offset - 24, kind)
    assert compiles(tmp_path, assertions) > 150


def test_the_numbers_are_those_of_the_document(tmp_path):
    assertions = []
    for cells in rows(section("Commands (0)")):
        if re.fullmatch(r"[A-Z_]+", cells[0]) and cells[1].isdigit():
            assertions.append((f"VIRTIO_RDMA_{cells[0]} == {cells[1]}", cells[0]))
    assert len(assertions) == 19
    for cells in rows(section("Events (1)")):
        event = re.fullmatch(r"(0x\d+|\d+) ([A-Z_]+)", cells[0])
        if event:
            assertions.append((f"VIRTIO_RDMA_EVENT_{event.group(2)} == {event.group(1)}", event.group(2)))
    assert len(assertions) == 19 + 9
    compiles(tmp_path, assertions)


@pytest.mark.parametrize("heading", RXE)
def test_queues_have_the_layout_that_rxe_has(heading, tmp_path):
    structure, names = RXE[heading]
    assertions, seen = [], set()
    for offset, kind, text in fields(section(heading).partition("*Registration*:")[0]):
        # In a row without a type the name comes first.
        name = next((known for known in names if text.startswith(known) or kind.startswith(known)), None)
        if text in ("armed", "by opcode, below", ""):
            continue  # in rxe's padding; not a field
        assert name, text
        seen.add(name)
        assertions += at(structure, names[name], offset)
    missing = set(names) - seen
    assert not missing, missing
    compiles(tmp_path, assertions)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_module_is_built_without_a_warning(kernel, tmp_path):
    headers = CACHE / "headers" / kernel / "build"
    if not (headers / "Makefile").exists():
        pytest.skip(f"no headers of kernel {kernel}: run tools/setup")
    shutil.copytree(DRIVER, tmp_path / "driver")
    result = subprocess.run(["make", "-C", tmp_path / "driver", f"KERNEL={headers.resolve()}", "W=1", "-j2"],
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    said = [line for line in result.stderr.splitlines() if "warning" in line.lower()]
    assert not said
    module = tmp_path / "driver/virtio_rdma.ko"
    about = subprocess.run(["/sbin/modinfo", module], capture_output=True, text=True, check=True).stdout
    release = (CACHE / "kernels" / kernel / "release").read_text().strip()
    assert f"vermagic:       {release} " in about
    assert "alias:          virtio:d0000002Av*" in about and "license:        GPL" in about
