# SPDX-License-Identifier: BSD-2-Clause
"""Cuts a machine's process at a chosen call: the other side of tests/support/cutter.c."""

import mmap
import os
import struct
import tempfile
import time

from support.vm import BUILD

LIBRARY = BUILD / "tests/mini/cutter.so"
NOTHING, KILL, FAIL, TEAR, SHORT, TRUNCATE, HOLD = range(7)
NAMES, NAME_SIZE, CALLS_MAX = 320, 16, 4096


class Cutter:
    """What is shared with the process. Give `wrapper` to the machine, arm it, and look at `calls` afterwards."""

    def __init__(self, folder):
        file, self.path = tempfile.mkstemp(prefix="cutter-", dir=folder)
        os.ftruncate(file, NAMES + NAME_SIZE * CALLS_MAX)
        self.memory = mmap.mmap(file, 0)
        os.close(file)
        self.wrapper = ("env", f"LD_PRELOAD={LIBRARY}", f"CUTTER={self.path}")

    def _put(self, offset, form, value):
        struct.pack_into("<" + form, self.memory, offset, value)

    def _get(self, offset):
        return struct.unpack_from("<I", self.memory, offset)[0]

    def arm(self, action=NOTHING, call=("", 0), failure=0, length=0, path=""):
        """From now on, or once `path` is opened, calls are counted; the call, ("fsync", 2), is cut."""
        self.disarm()
        self.memory[:] = bytes(len(self.memory))
        for offset, form, value in ((4, "I", action), (8, "I", call[1]), (12, "i", failure), (16, "Q", length),
                                    (48, "16s", call[0].encode()), (64, "256s", os.fsencode(path))):
            self._put(offset, form, value)
        self._put(0, "I", 1)
        return self

    def disarm(self):
        self._put(0, "I", 0)
        return self

    def release(self):
        """Lets a call that is held go on."""
        self._put(32, "I", 1)

    @property
    def reached(self):
        return self._get(28) != 0

    def wait_reached(self, limit=60):
        end = time.monotonic() + limit
        while not self.reached:
            assert time.monotonic() < end, self.calls
            time.sleep(0.005)

    @property
    def calls(self):
        """The names of the calls so far, in their order."""
        names = (self.memory[NAMES + n * NAME_SIZE:NAMES + (n + 1) * NAME_SIZE] for n in range(self._get(24)))
        return [name.rstrip(b"\0").decode() for name in names]
