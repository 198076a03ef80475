# SPDX-License-Identifier: BSD-2-Clause
"""Packets of RoCE are what scapy, which shares no code with the engine, says that they should be."""

import logging
import subprocess

import pytest

from support.vm import BUILD

logging.getLogger("scapy").setLevel(logging.CRITICAL)
pytest.importorskip("scapy.contrib.roce", reason="python3-scapy is not installed")


def packets():
    said = subprocess.run([BUILD / "tests/unit/rdma-packets"], capture_output=True, text=True, check=True).stdout
    for line in said.splitlines():
        port, identification, whole, vector, data = line.split()
        yield int(port), int(identification), int(whole), int(vector), bytes.fromhex(data)


def test_each_operation_has_the_crc_that_scapy_computes():
    from scapy.contrib.roce import BTH
    from scapy.layers.inet import IP, UDP
    from scapy.packet import raw

    operations = set()
    for port, identification, whole, _, data in packets():
        head = IP(src="10.1.2.3", dst="10.4.5.6", id=identification, flags="DF" if whole else 0, ttl=3, tos=2)
        # Taken apart from bytes, for only then does scapy know the layers; its CRC is made anew.
        packet = IP(raw(head / UDP(sport=port, dport=4791) / data))
        bth = packet[BTH]
        operations.add(bth.opcode)
        assert bth.icrc == int.from_bytes(data[-4:], "big")
        assert bth.compute_icrc(data[:-4]) == data[-4:], (port, identification, data.hex())
    assert len(operations) == 37
