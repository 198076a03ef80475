# SPDX-License-Identifier: BSD-2-Clause
"""Sockets between a stock guest and programs of the host, opened by either side."""

import hashlib
import os
import re
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from support.devices import device
from support.stock import StockGuest
from support.vm import MIB, REPOSITORY

CID = 77
ECHO, CLOSED = 1234, 4321


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="godwit-test-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def guest(folder):
    """Runs an echo server. The guest's program comes on a disk, which holds nothing else."""
    tool = folder / "tool"
    subprocess.run([os.environ.get("CC", "cc"), "-static", "-Os", "-s", "-o", tool,
                    REPOSITORY / "tests/support/vsock-tool.c"], check=True)
    os.truncate(tool, (tool.stat().st_size + 4095) // 4096 * 4096)
    with StockGuest("--vsock", f"cid={CID},path={folder}/vsock,id=vsock0",
                    "--disk", f"{tool},readonly=on") as guest:
        guest.wait_ready()
        guest.sh("cat /dev/vda >/tmp/tool && chmod +x /tmp/tool && "
                 f"(/tmp/tool echo {ECHO} >/tmp/echo.log 2>&1 &)")
        yield guest


def call(folder, port):
    """A connection to a port of the guest, before its greeting is answered."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(120)
    connection.connect(f"{folder}/vsock")
    connection.sendall(f"CONNECT {port}\n".encode())
    return connection


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line


def connect(folder, port=ECHO):
    connection = call(folder, port)
    assert re.fullmatch(rb"OK \d+\n", read_line(connection))
    return connection


def read_all(connection):
    data = bytearray()
    while piece := connection.recv(65536):
        data += piece
    return bytes(data)


def exchange(connection, data):
    """Sends all of it while it hears what comes back, up to the end."""
    def send():
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    back = read_all(connection)
    sender.join(60)
    return back


def listen(folder, port):
    server = socket.socket(socket.AF_UNIX)
    server.settimeout(120)
    server.bind(f"{folder}/vsock_{port}")
    server.listen()
    return server


def test_the_guest_has_the_address_that_was_given(guest):
    assert guest.sh("/tmp/tool cid") == str(CID)


def test_the_host_reaches_a_server_in_the_guest(guest, folder):
    with connect(folder) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        connection.sendall(b"again")
        assert connection.recv(100) == b"again"


def test_a_stream_from_the_host_comes_back_unchanged(guest, folder):
    data = os.urandom(6 * MIB + 123)
    with connect(folder) as connection:
        assert exchange(connection, data) == data


def test_a_port_without_a_server_is_refused(guest, folder):
    with call(folder, CLOSED) as connection:
        assert read_line(connection) == b""


def test_something_else_than_a_greeting_is_refused(guest, folder):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(f"{folder}/vsock")
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        try:
            assert connection.recv(100) == b""
        except ConnectionResetError:
            pass
    with connect(folder) as connection:
        assert exchange(connection, b"still here") == b"still here"


def test_the_guest_reaches_a_server_of_the_host(guest, folder):
    with listen(folder, 2000) as server:
        guest.console.send_script("dd if=/dev/urandom of=/tmp/sent bs=1k count=3001 2>/dev/null; "
                                  "/tmp/tool connect 2000 </tmp/sent >/tmp/answer; cat /tmp/answer; md5sum </tmp/sent")
        connection, _ = server.accept()
        with connection:
            connection.settimeout(120)
            received = read_all(connection)
            connection.sendall(b"thank you\n")
    expected = guest.console.expect(r"^thank you\r?\n(\w+)  -\r?\n\r?\ngodwit-done: 0\r?\n").group(1)
    assert len(received) == 3001 * 1024
    assert hashlib.md5(received).hexdigest() == expected


def test_the_guest_is_refused_where_the_host_has_no_server(guest):
    assert "Connection reset" in guest.sh("/tmp/tool connect 2001", check=False)


def test_many_connections_at_once_keep_their_data_apart(guest, folder):
    connections = [connect(folder) for _ in range(24)]
    for number, connection in enumerate(connections):
        connection.sendall(f"this is {number}".encode() * 100)
        connection.shutdown(socket.SHUT_WR)
    for number, connection in reversed(list(enumerate(connections))):
        assert read_all(connection) == f"this is {number}".encode() * 100
        connection.close()


def test_a_program_that_does_not_read_holds_up_nobody_else(guest, folder):
    with connect(folder) as slow:
        slow.settimeout(5)
        sent = 0
        try:
            while sent < 64 * MIB:
                sent += slow.send(bytes(65536))
        except TimeoutError:
            pass
        assert sent < 64 * MIB  # what it sends is echoed, nobody reads that, and so it has to wait
        with connect(folder) as quick:
            assert exchange(quick, b"x" * MIB) == b"x" * MIB
        slow.settimeout(120)
        slow.shutdown(socket.SHUT_WR)
        assert len(read_all(slow)) == sent


def test_a_connection_that_the_host_drops_ends_in_the_guest(guest, folder):
    for _ in range(5):
        connection = connect(folder)
        connection.sendall(bytes(100000))
        connection.close()
    guest.sh("for i in $(seq 60); do [ $(pidof tool | wc -w) = 1 ] && exit; sleep 1; done; pidof tool; exit 1")
    assert device(guest, "vsock0")["violations"] == 0
    assert guest.kernel_complaints() == []
