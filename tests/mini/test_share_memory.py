# SPDX-License-Identifier: BSD-2-Clause
"""A machine that goes to another process of the same host with its memory, which is handed over and not copied: nothing of it is
sent, and whatever breaks, exactly one process goes on with it."""

import json

import pytest

from support.migration_proxy import Proxy
from support.vm import MIB
from mini_machine import ENDLESS, LIMIT, Restored, refused
from mini_move import COUNTING, Destination, Source, at, check_moved, check_stayed, killed, settle

SHARE = ("--share-memory", "--channels", "1")


def check_nothing_sent(report):
    assert (report["pages"], report["zero-pages"], report["compressed-pages"]) == (0, 0, 0)
    assert report["sent"] < MIB // 4  # states of devices and processors
    assert report["state"] == "GONE"


def memory_files(vm):
    """The files behind the machine's memory, as the kernel numbers them."""
    return {line.split()[4] for line in open(f"/proc/{vm.process.pid}/maps") if "/memfd:memory0" in line}


def test_memory_is_handed_over_and_none_of_it_sent(pair, tmp_path):
    source, destination = pair
    before = memory_files(source)
    assert before
    report = json.loads(source.migrate(f"unix:{tmp_path}/socket", *SHARE, "--json").stdout)
    check_nothing_sent(report)
    assert memory_files(destination) == before
    check_moved(source, destination)


@pytest.mark.parametrize("backing", ["memfd", "hugetlb", "prealloc", "tmpfs", "file"])
def test_every_shared_backing_goes(tmp_path, backing, backing_of):
    with Source(tmp_path, "counting", cmdline=COUNTING, memory=f"64M,{backing_of(backing)}") as source:
        source.wait_lines(2)
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            check_nothing_sent(json.loads(source.migrate(f"unix:{tmp_path}/socket", *SHARE, "--json").stdout))
            check_moved(source, destination)


def test_elastic_memory_goes_along(tmp_path):
    with Source(tmp_path, "counting", "--elastic", "id=hot0,max=1G,size=16M,block=2M",
                cmdline=f"pages=256 elastic=4 steps={ENDLESS}") as source:
        source.wait_lines(2)
        resident = source.region_resident("hot0")
        with Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
            destination.wait_said("waiting for a VM")
            check_nothing_sent(json.loads(source.migrate(f"unix:{tmp_path}/socket", *SHARE, "--json").stdout))
            assert destination.elastic("hot0")["size"] == 8 * MIB
            assert destination.region_resident("hot0") == resident
            check_moved(source, destination)


def test_it_goes_on_and_on(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        text, now = "", source
        for hop in range(3):
            seen = now.text().count("\n")
            now.wait_lines(seen + 2)
            with_next = Destination(tmp_path, f"unix:{tmp_path}/socket{hop}", log=f"hop{hop}")
            with_next.wait_said("waiting for a VM")
            now.qmp.command("query-status")
            now.cli("migrate", now.name, f"unix:{tmp_path}/socket{hop}", *SHARE, limit=LIMIT)
            assert now.wait(LIMIT) == 0
            text += now.text()
            if now is not source:
                now.kill()
            now = with_next
        with now:
            now.wait_lines(3)
            lines = [line for line in (text + now.text()).split("\n")[:-1]]
            assert lines == [f"step {n}" for n in range(1, len(lines) + 1)]


# --- What cannot be ----------------------------------------------------------------------------------


def test_anonymous_memory_is_refused(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING, memory="64M,backing=anon") as source, \
            Destination(tmp_path, f"unix:{tmp_path}/socket") as destination:
        destination.wait_said("waiting for a VM")
        said = refused(source.migrate(f"unix:{tmp_path}/socket", *SHARE, check=False))
        assert "memory 'memory0' is anonymous, which cannot be handed to another process" in said
        source.wait_lines(3)
        assert destination.text() == ""


def test_a_clone_is_refused(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING) as source:
        source.wait_lines(2)
        source.save(tmp_path / "file")
    with Restored(tmp_path, tmp_path / "file", "--clone") as clone:
        clone.wait_lines(1)
        said = refused(clone.cli("migrate", clone.name, f"unix:{tmp_path}/socket", *SHARE, check=False))
        assert "memory 'memory0' is a clone's" in said


@pytest.mark.parametrize("options,said", [
    (("--compress", "zstd"), "compress: no memory is sent with share-memory"),
    (("--bandwidth", "1M"), "bandwidth: no memory is sent with share-memory"),
    (("--tls", "/etc"), "tls: no memory is sent with share-memory"),
    (("--auto-converge",), "auto-converge: no memory is sent with share-memory"),
])
def test_what_concerns_sending_is_refused(pair, tmp_path, options, said):
    source, destination = pair
    result = source.migrate(f"unix:{tmp_path}/socket", *SHARE, *options, check=False)
    assert result.returncode in (1, 2)
    assert said in result.stderr


def test_another_way_than_a_unix_socket_is_refused(tmp_path):
    with Source(tmp_path, "counting", cmdline=COUNTING) as source, \
            Destination(tmp_path, "tcp:127.0.0.1:0") as destination:
        destination.wait_said("waiting for a VM at ")
        address = destination.stderr().split("waiting for a VM at ")[1].split()[0]
        said = refused(source.migrate(address, *SHARE, check=False))
        assert "descriptors go along with UNIX sockets without TLS only" in said
        source.wait_lines(3)


def test_a_way_that_loses_descriptors_is_refused_before_the_guest_stops(pair, tmp_path):
    source, destination = pair
    with Proxy(tmp_path / "proxy", tmp_path / "socket") as proxy:
        proxy.passes = False
        said = refused(source.migrate(f"unix:{tmp_path}/proxy", *SHARE, check=False))
        assert "0 descriptors of memory have come along, and 1 were to" in said
        assert "SWITCH_BEGIN" not in proxy.seen
    assert destination.wait(60) == 1
    check_stayed(source, destination)


# --- What breaks -------------------------------------------------------------------------------------


class Cut:
    def __init__(self, pair, folder, *break_arguments, **break_options):
        self.source, self.destination = pair
        self.proxy = Proxy(folder / "proxy", folder / "socket", *break_arguments, **break_options)
        self.uri = f"unix:{folder}/proxy"

    def __enter__(self):
        self.result = self.source.migrate(self.uri, *SHARE, check=False)
        return self

    def __exit__(self, *exception):
        self.proxy.close()


@pytest.mark.parametrize("step,when", [("CONFIG", "before"), ("ACCEPT", "after"), ("SWITCH_BEGIN", "before"),
                                       ("SWITCH_BEGIN", "after"), ("ROUND_END", "before"), ("LOADED", "before")])
def test_the_guest_stays_when_the_link_is_cut_before_go(pair, tmp_path, step, when):
    with Cut(pair, tmp_path, at(step, when)) as cut:
        assert cut.result.returncode == 1
        check_stayed(cut.source, cut.destination)


@pytest.mark.parametrize("step", ["CONFIG", "SWITCH_BEGIN", "ROUND_END", "LOADED"])
def test_the_guest_stays_when_the_destination_dies_before_go(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before"), broken=killed(pair[1])) as cut:
        assert cut.result.returncode == 1
        check_stayed(cut.source, cut.destination)


@pytest.mark.parametrize("step", ["SWITCH_BEGIN", "ROUND_END"])
def test_nobody_runs_the_guest_when_the_source_dies_before_all_is_there(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before"), broken=killed(pair[0])) as cut:
        assert cut.destination.wait(LIMIT) == 1
        assert cut.destination.text() == ""


@pytest.mark.parametrize("step", ["LOADED", "GO"])
def test_the_guest_goes_on_there_when_the_source_dies_behind_the_last_state(pair, tmp_path, step):
    with Cut(pair, tmp_path, at(step, "before"), broken=killed(pair[0])) as cut:
        cut.destination.wait_state("HELD")
        settle(cut.destination, "resume-here")
        cut.destination.wait_lines(3)
        text = (cut.source.text() + cut.destination.text()).split("\n")[:-1]
        assert text == [f"step {n}" for n in range(1, len(text) + 1)]


def test_a_lost_go_is_settled_and_the_guest_goes_on_here(pair, tmp_path):
    with Cut(pair, tmp_path, at("GO", "before")) as cut:
        cut.source.wait_state("UNDECIDED")
        cut.destination.wait_state("HELD")
        settle(cut.source, "resume-here")
        settle(cut.destination, "give-up")
        assert cut.destination.wait(LIMIT) == 1
        check_stayed(cut.source, cut.destination)


def test_a_lost_go_is_settled_and_the_guest_goes_on_there(pair, tmp_path):
    with Cut(pair, tmp_path, at("GO", "before")) as cut:
        cut.destination.wait_state("HELD")
        settle(cut.destination, "resume-here")
        settle(cut.source, "give-up")
        check_moved(cut.source, cut.destination)


def test_the_guest_goes_on_there_when_the_source_dies_behind_go(pair, tmp_path):
    with Cut(pair, tmp_path, at("RUNNING", "before"), broken=killed(pair[0])) as cut:
        cut.destination.wait_lines(3)
        text = (cut.source.text() + cut.destination.text()).split("\n")[:-1]
        assert text == [f"step {n}" for n in range(1, len(text) + 1)]
