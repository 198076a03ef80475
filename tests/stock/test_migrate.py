# SPDX-License-Identifier: BSD-2-Clause
"""Stock guests that move from process to process, there and back, while their programs verify memory, disk and network; and that
are updated in place at each place that they come to.

Each machine goes half of the ways; GODWIT_TEST_MOVES=8 lets it go all of them, and more makes it longer.
"""

import json
import os
import socket
import subprocess
import threading

import pytest

from support import tls
from support.stock import Guest, StockGuest, wait_until
from support.vm import MIB

MOVES = int(os.environ.get("GODWIT_TEST_MOVES", 4))
UPDATES = 2  # at each place
LIMIT = 300
# Boot memory, elastic memory, processors, kernel, the way that comes first.
MACHINES = {
    "huge-4-cpus": ("256M,backing=hugetlb", "backing=memfd,block=4M", 4, "6.12-cloud", 0),
    "memfd-1-cpu": ("256M,backing=memfd", "backing=hugetlb", 1, "6.1-cloud", 4),
}
# The ways, one after the other: what is stressed is written again and again, so each needs room for a downtime or a slower guest.
PATIENT = ("--max-downtime", "20000")
WAYS = [("--channels", "1", *PATIENT), ("--channels", "8", *PATIENT), ("--channels", "2", "--compress", "zstd", *PATIENT),
        ("--channels", "2", "--postcopy"), ("--channels", "2", "--tls", *PATIENT), ("--channels", "4", "--auto-converge"),
        ("--channels", "4", "--hybrid", "--compress", "zstd"), ("--channels", "4", "--compress", "zstd", "--tls", *PATIENT)]
# Where to, also in turns; vsock goes through the host's own loopback.
URIS = ("unix:{folder}/socket{number}", "tcp:127.0.0.1:{port}", "vsock:1:{port}")
ADDRESS, GUEST, ECHO = "10.99.78.1", "10.99.78.2", 5399
# One connection for all moves: each line comes back.
PROGRAMS = f"""
ip address add {GUEST}/24 dev eth0 && ip link set eth0 up
(i=0; while :; do i=$((i + 1)); echo $i; sleep 0.1; done | nc {ADDRESS} {ECHO} >/tmp/echoed) 2>/dev/null &
""" + """
stress-ng --vm 1 --vm-bytes 64M --vm-method all --verify -t 0 --temp-path /tmp >/tmp/stress 2>&1 &
echo $! >/tmp/stress.pid
(i=0
while :; do
    i=$((i + 1))
    head -c 1m /dev/urandom >/tmp/piece
    dd if=/tmp/piece of=/dev/vda bs=1M seek=$((i % 16)) conv=notrunc,fsync || echo $i >>/tmp/bad
    dd if=/dev/vda bs=1M skip=$((i % 16)) count=1 iflag=direct | cmp - /tmp/piece || echo $i >>/tmp/bad
    echo $i >/tmp/new; mv /tmp/new /tmp/count
done) >/dev/null 2>&1 &
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def send_back(listener):
    connection, _ = listener.accept()
    while data := connection.recv(4096):
        connection.sendall(data)


@pytest.fixture
def taps():
    """Two interfaces of one network, in which somebody sends back what is sent to him."""
    bridge = f"gwbr{os.getpid()}"
    names = [f"gwtap{i}.{os.getpid()}" for i in range(2)]
    ip("link", "add", bridge, "type", "bridge")
    try:
        ip("address", "add", f"{ADDRESS}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for name in names:
            ip("tuntap", "add", "dev", name, "mode", "tap")
            ip("link", "set", name, "master", bridge, "up")
        with socket.create_server((ADDRESS, ECHO)) as listener:
            threading.Thread(target=send_back, args=(listener,), daemon=True).start()
            yield names
    finally:
        for name in [*names, bridge]:
            subprocess.run(["ip", "link", "delete", name], check=False)


class Destination(Guest):
    def __init__(self, uri, *arguments):
        super().__init__("--incoming", uri, "--log=info", *arguments)
        wait_until(lambda: "waiting for a VM" in self.stderr() or self.check_alive(), LIMIT)


def count(guest):
    return int(guest.sh("cat /tmp/count"))


def echoed(guest):
    return int(guest.sh("wc -l </tmp/echoed"))


def check_goes_on(guest, count_before, echoed_before):
    """Its programs run on behind what they had done, and nothing has gone wrong."""
    wait_until(lambda: count(guest) > count_before, LIMIT, lambda: f"the guest's counter stands at {count(guest)}")
    wait_until(lambda: echoed(guest) > echoed_before, LIMIT, lambda: f"only {echoed(guest)} lines have come back")
    guest.sh("awk 'bad { exit 1 } { bad = $1 != NR }' /tmp/echoed")  # of the last line half may be there
    guest.sh("kill -0 $(cat /tmp/stress.pid); [ ! -e /tmp/bad ]")
    assert "fail" not in guest.sh("cat /tmp/stress")
    assert guest.kernel_complaints() == []


def update(guest):
    """Lets the guest go on in another process of the same machine; for how many ms it stood still."""
    pid = guest.qmp.command("godwit-statistics")["pid"]
    report = json.loads(guest.cli("update", guest.name, "--json", limit=LIMIT).stdout)
    guest._qmp = None  # that connection is closed
    assert report["pid"] == guest.qmp.command("godwit-statistics")["pid"] != pid
    assert (report["pages"], report["zero-pages"]) == (0, 0)
    return report["downtime"]["total-ns"] / 1e6


@pytest.mark.parametrize("machine", MACHINES)
def test_guest_moves_there_and_back_while_its_programs_verify(machine, huge_pages, taps, tmp_path, record_property):
    memory, elastic, cpus, kernel, first = MACHINES[machine]
    huge_pages(2 * 256 // 2)  # both ends hold some for a moment
    certificates = tls.make(tmp_path / "tls", "there.example")
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(16 * MIB)
    guest = StockGuest("--elastic", f"id=mem0,max=512M,{elastic}", "--disk", disk, "--net", f"tap:{taps[1]}", "--balloon",
                       "statistics=1", memory=memory, cpus=cpus, kernel=kernel, tools=("stress-ng",))
    try:
        guest.wait_ready()
        guest.resize("mem0", 128 * MIB)
        kept = guest.sh("head -c 16m /dev/urandom >/tmp/random; md5sum </tmp/random")
        guest.sh(PROGRAMS)
        wait_until(lambda: guest.sh("cat /tmp/count 2>/dev/null; true") and echoed(guest), LIMIT)
        downtimes, updates = [], []
        for number in range(MOVES):
            way = list(WAYS[(first + number) % len(WAYS)])
            uri, own = URIS[number % len(URIS)].format(folder=tmp_path, number=number, port=5000 + number), []
            if "--tls" in way:
                way[way.index("--tls"):way.index("--tls") + 1] = ["--tls", certificates, "--tls-name", "there.example"]
                own = ["--tls", certificates]
            before = count(guest), echoed(guest)
            size = (256 if number % 2 else 128) * MIB
            there = Destination(uri, "--net", f"tap:{taps[number % 2]}", *own)
            try:
                guest.request("mem0", size)  # and while it is resized
                said = guest.cli("migrate", guest.name, uri, *way, limit=LIMIT).stdout
                assert guest.wait(LIMIT) == 0
            except BaseException:
                print(there.stderr())
                there.kill()
                raise
            guest.kill()
            guest = there
            downtimes.append(float(said.split("stood still for ")[1].split(" ms")[0]))
            # While its programs run, and memory comes or goes still.
            updates += [update(guest) for _ in range(UPDATES)]
            check_goes_on(guest, *before)
            guest.wait_size("mem0", size, LIMIT)
        assert guest.sh("md5sum </tmp/random") == kept
        assert guest.sh("grep oom_kill /proc/vmstat") == "oom_kill 0"
        record_property("measured", f"{machine}: {MOVES} moves under stress-ng, downtimes of {min(downtimes):.0f} to "
                                    f"{max(downtimes):.0f} ms (on an emulated host, each with its own options); "
                                    f"{len(updates)} updates, {min(updates):.0f} to {max(updates):.0f} ms")
        assert guest.power_off() == 0
    finally:
        guest.kill()
