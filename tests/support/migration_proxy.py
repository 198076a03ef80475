# SPDX-License-Identifier: BSD-2-Clause
"""A wire between the two ends of a migration that breaks where a test wants it to.

The main connection, which is the first one, is read frame by frame (docs/migration-protocol.md), so that it can break in
front of or behind a certain message; data connections are passed on as they are.
"""

import os
import socket
import struct
import threading
import time

TYPES = ["", "CONFIG", "ACCEPT", "REFUSE", "ROUND_END", "STATE_CREDIT", "SWITCH_BEGIN", "LOADED", "GO", "RUNNING",
         "RUNNING_LACKING", "REJECTED", "PAGE_REQUEST", "RECEIVED", "PENDING", "PLUGGED", "PING", "PONG", "ABORT", "DONE"]
HELLO, ANSWER = 40, 16


def exactly(connection, size, passed=None):
    """So many bytes; descriptors that come along are added to `passed`."""
    data = b""
    while len(data) < size:
        if passed is None:
            more = connection.recv(size - len(data))
        else:
            more, fds, _, _ = socket.recv_fds(connection, size - len(data), 128)
            passed += fds
        if not more:
            raise ConnectionError
        data += more
    return data


def send_all(connection, data, passed):
    if passed:
        data = data[socket.send_fds(connection, [data], passed):]
    connection.sendall(data)
    while passed:
        os.close(passed.pop())


class Proxy:
    """Listens at `path` and passes everything on to `target`; both are UNIX sockets.

    `breaks(name, count)` is asked in front of each message of the main connection, with its name and how many of that
    name came before, and may say "before" (it does not arrive) or "after" (it does, and nothing else does).
    `alter(name, body)` returns what a message becomes. `data_limit`: data connections break after so many bytes. `broken` is called when that has happened, before the
    ends can see it. `opaque`: the main connection is one of those that are passed on as they are.
    """

    passes = True  # descriptors that go along with messages

    def __init__(self, path, target, breaks=lambda name, count: None, data_limit=None, broken=lambda: None,
                 alter=lambda name, body: body, opaque=False):
        self.target, self.opaque = str(target), opaque
        self.breaks, self.data_limit, self.broken, self.alter = breaks, data_limit, broken, alter
        self.seen = []
        self.connections = []
        self.data_bytes = 0
        self.lock = threading.Lock()
        self.is_broken = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        self.listener.close()
        self._close_all()

    def _close_all(self):
        with self.lock:
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def cut(self):
        with self.lock:
            if self.is_broken.is_set():
                return
            self.is_broken.set()
        self.broken()
        self._close_all()

    def _listen(self):
        main = not self.opaque
        while True:
            try:
                source, _ = self.listener.accept()
            except OSError:
                return
            target = socket.socket(socket.AF_UNIX)
            end = time.monotonic() + 20
            while True:
                try:
                    target.connect(self.target)
                    break
                except OSError:
                    assert time.monotonic() < end
                    time.sleep(0.02)
            with self.lock:
                self.connections += [source, target]
            for ends, size in (((source, target), HELLO), ((target, source), ANSWER)):
                threading.Thread(target=self._main if main else self._data, args=(*ends, size), daemon=True).start()
            main = False

    def _main(self, come, go, begin):
        try:
            go.sendall(exactly(come, begin))
            while True:
                passed = []
                head = exactly(come, 8, passed)
                kind, _, length = struct.unpack("<HHI", head)
                body = exactly(come, length, passed)
                if not self.passes:
                    while passed:
                        os.close(passed.pop())
                name = TYPES[kind]
                where = self.breaks(name, self.seen.count(name))
                self.seen.append(name)
                if where == "before":
                    return self.cut()
                body = self.alter(name, body)
                send_all(go, struct.pack("<HHI", kind, 0, len(body)) + body, passed)
                if where == "after":
                    time.sleep(0.2)  # what is on its way arrives
                    return self.cut()
        except (OSError, ConnectionError):
            self._close_both(come, go)

    def _data(self, come, go, begin):
        try:
            while data := come.recv(65536):
                with self.lock:
                    self.data_bytes += len(data)
                    over = self.data_limit is not None and self.data_bytes > self.data_limit
                if over:
                    return self.cut()
                go.sendall(data)
            go.shutdown(socket.SHUT_WR)
        except OSError:
            self._close_both(come, go)

    @staticmethod
    def _close_both(*ends):
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
