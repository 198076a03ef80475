# SPDX-License-Identifier: BSD-2-Clause
"""The RDMA engine with Linux's own RoCE v2, rxe, as its peer: every operation of RC in both directions, every path MTU,
odd lengths, refusals, and what the engine sends lost, doubled and late. rxe's programs are Debian's libibverbs.

On emulated hosts with the kernels 6.1 and 6.12: this machine's kernel need not have rxe.
"""

import os
import subprocess
from pathlib import Path

import pytest

from support import rdma_rxe
from support.vm import BUILD, REPOSITORY

CACHE = Path(os.environ.get("GODWIT_CACHE") or REPOSITORY / ".cache")
PEER = BUILD / "tests/unit/rdma-peer"
# The emulation of a host fails now and then, and says so by a status that no command gives (docs/emulated-host.md).
HOST_FAILED, ATTEMPTS = 125, 3

pytestmark = [
    pytest.mark.skipif("GODWIT_EMULATED_HOST" in os.environ, reason="runs outside an emulated host only"),
]


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def said(request):
    """The run of all cases on one kernel: each says a line."""
    modules = CACHE / f"kernels/{request.param}-generic"
    if not (modules / "vmlinuz").exists():
        pytest.skip(f"no unpacked kernel {request.param}: run tools/setup")
    pytest.importorskip("pyverbs", reason="python3-pyverbs is not installed")
    for _ in range(ATTEMPTS):
        result = subprocess.run([REPOSITORY / "tools/emulated-host", "--kernel", request.param, "--timeout", "1200",
                                 "--readable", BUILD, "--", "/usr/bin/python3",
                                 REPOSITORY / "tests/support/rdma_rxe.py", modules, PEER],
                                capture_output=True, text=True, check=False)
        if result.returncode != HOST_FAILED:
            break
    return result


@pytest.mark.parametrize("case", rdma_rxe.CASES)
def test_with_rxe(said, case):
    ok = [line for line in said.stdout.splitlines() if line.startswith(f"ok {case} ")]
    failed = said.stdout.partition(f"failed {case}:")[2].partition("\nok ")[0]
    assert ok, failed or (said.stdout + said.stderr)[-4000:]
