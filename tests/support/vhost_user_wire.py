# SPDX-License-Identifier: BSD-2-Clause
"""Passes the messages of vhost-user sessions on, with their descriptors, and keeps the books of those that are about memory: what a
back-end was given and what was taken away, as it was on the wire."""

import socket
import struct
import threading
from pathlib import Path

SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG = 5, 37, 38
REPLY = 4  # a flag
DESCRIPTORS_MAX = 32


def take(connection, size, descriptors):
    """Exactly `size` bytes; what comes with them goes to `descriptors`. None: the connection has ended."""
    data = b""
    while len(data) < size:
        more, came, _, _ = socket.recv_fds(connection, size - len(data), DESCRIPTORS_MAX)
        descriptors += came
        if not more:
            return None
        data += more
    return data


def shut(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended already


class Wire:
    """Listens at `path` for a front-end; `back_end` is whose socket it connects to for each.

    held      {guest address: size} that the back-end has been given in this session
    messages  (request, guest address, size) of all sessions, from the first on
    wrong     what a front-end must never do: give what overlaps what is held, take what is not
    """

    def __init__(self, path, back_end):
        self.socket = Path(path)
        self.back_end = back_end
        self.held, self.messages, self.wrong = {}, [], []
        self.connections = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        shut(self.listener)
        for connection in self.connections:
            shut(connection)
        self.thread.join()
        self.listener.close()

    def _serve(self):
        """One session after the other."""
        while True:
            try:
                front, _ = self.listener.accept()
            except OSError:
                return
            with front, socket.socket(socket.AF_UNIX) as back:
                self.connections = [front, back]
                try:
                    back.connect(str(self.back_end.socket))
                except OSError:
                    continue
                self.held = {}
                other = threading.Thread(target=self._pump, args=(back, front), daemon=True)
                other.start()
                self._pump(front, back, self._note)
                other.join()

    def _pump(self, come, go, note=lambda request, body: None):
        try:
            while True:
                descriptors = []
                head = take(come, 12, descriptors)
                body = head and take(come, struct.unpack("<III", head)[2], descriptors)
                if body is None:
                    break
                note(struct.unpack("<I", head[:4])[0], body)
                socket.send_fds(go, [head + body], descriptors)
                for descriptor in descriptors:
                    socket.close(descriptor)
        except OSError:
            pass  # as the end of the connection
        shut(come)
        shut(go)

    def _note(self, request, body):
        if request == SET_MEM_TABLE:
            self.held = {}
            for at in range(8, 8 + 32 * struct.unpack("<I", body[:4])[0], 32):
                address, size = struct.unpack("<QQ", body[at:at + 16])
                self.held[address] = size
            self.messages.append((request, None, None))
        elif request in (ADD_MEM_REG, REM_MEM_REG):
            address, size = struct.unpack("<QQ", body[8:24])
            self.messages.append((request, address, size))
            if request == REM_MEM_REG:
                if self.held.pop(address, None) != size:
                    self.wrong.append(("takes what is not held", hex(address), size))
                return
            if any(address < other + length and other < address + size for other, length in self.held.items()):
                self.wrong.append(("gives what is held", hex(address), size))
            self.held[address] = size
