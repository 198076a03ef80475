# SPDX-License-Identifier: BSD-2-Clause
"""A wire that takes its time with each message, in both directions: while it does, never do both processes run the guest."""

import threading
import time

import pytest
from support.migration_proxy import Proxy
from mini_move import LARGE, SLOW, Two, ask, check_moved

DELAY = 0.1  # seconds
# Of other messages there is one, or one a round. These come all the time; and who waits for pages may be the one who is asked.
MANY = ("STATE_CREDIT", "PAGE_REQUEST", "RECEIVED", "PING", "PONG")
STEPS = {"CONFIG", "ACCEPT", "ROUND_END", "SWITCH_BEGIN", "LOADED", "GO", "DONE", "RUNNING"}
MODES = {
    "precopy": ((), STEPS),
    "postcopy": (("--postcopy", *SLOW), STEPS | {"PENDING", "PAGE_REQUEST", "RUNNING_LACKING"}),
    "hybrid": (("--hybrid", "--max-downtime", "1", *SLOW), STEPS | {"PENDING", "PAGE_REQUEST", "RUNNING_LACKING"}),
    "shared": (("--share-memory", "--channels", "1"), STEPS),
}


def runs(vm):
    status = ask(vm, "query-status")
    return bool(status) and status["running"]


class Delay:
    """Looks at both ends while a message is on its way: first at the destination, which never gives a guest back."""

    def __init__(self, source, destination, mode):
        self.source, self.destination, self.mode = source, destination, mode
        self.lock = threading.Lock()
        self.looks, self.both = [], []

    def __call__(self, name, count):
        if name in MANY and count > 1:
            return None
        time.sleep(DELAY)
        if name in MANY:
            return None
        there = runs(self.destination)
        here = runs(self.source)
        with self.lock:
            self.looks.append((name, here, there))
            if here and there:
                self.both.append(name)
        if name == "ROUND_END" and self.mode == "hybrid":
            ask(self.source, "godwit-migrate-start-postcopy")
        if name == "RUNNING_LACKING":
            ask(self.source, "godwit-migrate-limit", bandwidth=0)
        return None


@pytest.mark.parametrize("mode", MODES)
def test_both_never_run_however_long_each_word_takes(tmp_path, mode):
    options, steps = MODES[mode]
    with Two(tmp_path, cmdline=LARGE) as (source, destination):
        delay = Delay(source, destination, mode)
        with Proxy(tmp_path / "proxy", tmp_path / "socket", delay) as proxy:
            source.migrate(f"unix:{tmp_path}/proxy", *options)
            check_moved(source, destination)
            assert steps - set(proxy.seen) == set()
        assert delay.both == []
        assert delay.looks[0] == ("CONFIG", True, False) and ("GO", False, False) in delay.looks
