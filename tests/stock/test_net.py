# SPDX-License-Identifier: BSD-2-Clause
"""The network of stock guests: a tap interface of the host, with one queue pair and with two."""

import json
import os
import socket
import subprocess

import pytest

from support.devices import device
from support.stock import StockGuest
from support.vm import MIB

HOST, GUEST = "10.99.77.1", "10.99.77.2"
MAC = "52:54:00:12:34:56"
PORT = 5301
# Feature bits of virtio 1.2, 5.1.3.
OFFLOADS = {"CSUM": 0, "GUEST_CSUM": 1, "GUEST_TSO4": 7, "HOST_TSO4": 11, "MRG_RXBUF": 15, "CTRL_VQ": 17}
MULTI_QUEUE = 22


@pytest.fixture(scope="module", autouse=True)
def tun():
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("there is no usable /dev/net/tun")


@pytest.fixture(scope="class", params=[1, 2], ids=["one-queue", "two-queues"])
def guest(request):
    """A guest with as many processors as queue pairs, and its network set up on both sides."""
    queues, tap = request.param, f"gwtest{os.getpid()}"
    mode = ["multi_queue"] if queues > 1 else []
    subprocess.run(["ip", "tuntap", "add", "dev", tap, "mode", "tap", *mode], check=True)
    try:
        subprocess.run(["ip", "address", "add", f"{HOST}/24", "dev", tap], check=True)
        subprocess.run(["ip", "link", "set", tap, "up"], check=True)
        with StockGuest("--net", f"tap:{tap},mac={MAC},queues={queues},mtu=1400", "--net", "tap:", cpus=queues,
                        tools=("iperf3",)) as guest:
            guest.wait_ready()
            guest.sh(f"ip address add {GUEST}/24 dev eth0 && ip link set eth0 up")
            guest.queues, guest.tap = queues, tap
            yield guest
    finally:
        subprocess.run(["ip", "link", "delete", tap], check=True)


def statistic(guest, name):
    return int(guest.sh(f"cat /sys/class/net/eth0/statistics/{name}"))


def iperf(guest, *options):
    """Runs iperf3 with the guest as client; what the server received or sent, in bytes."""
    server = subprocess.Popen(["iperf3", "-s", "-1", "-J", "-B", HOST, "-p", str(PORT)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True)
    try:
        guest.sh(f"for i in 1 2 3 4 5 6 7 8 9 10; do iperf3 -c {HOST} -p {PORT} {' '.join(options)} >/tmp/iperf && exit; "
                 "sleep 1; done; cat /tmp/iperf; exit 1")
        result = json.loads(server.communicate(timeout=60)[0])
    finally:
        server.kill()
        server.wait()
    return result["end"]


class TestRunningGuest:
    def test_the_interface_is_as_configured(self, guest):
        assert guest.sh("cat /sys/class/net/eth0/address") == MAC
        assert guest.sh("cat /sys/class/net/eth0/mtu") == "1400"
        assert guest.sh("cat /sys/class/net/eth0/carrier") == "1"
        queues = guest.sh("ls /sys/class/net/eth0/queues").split()
        assert queues == [f"{way}-{n}" for way in ("rx", "tx") for n in range(guest.queues)]
        state = device(guest, "net0")
        assert state["mac"] == MAC and state["interface"] == guest.tap and state["link"] is True
        assert state["queue-pairs"] == state["queue-pairs-in-use"] == guest.queues

    def test_without_a_mac_address_a_local_one_is_made(self, guest):
        address = guest.sh("cat /sys/class/net/eth1/address")
        assert int(address[:2], 16) & 3 == 2  # locally administered, for one station
        assert device(guest, "net1")["mac"] == address != MAC
        assert guest.sh("cat /sys/class/net/eth1/mtu") == "1500"

    def test_offloads_are_negotiated(self, guest):
        features = int(device(guest, "net0")["features"], 16)
        assert [name for name, bit in OFFLOADS.items() if not features >> bit & 1] == []
        assert features >> MULTI_QUEUE & 1 == (guest.queues > 1)

    def test_the_host_answers_a_ping(self, guest):
        answer = guest.sh(f"ping -c 3 -s 1000 {HOST}")
        assert "3 packets received" in answer

    def test_a_large_ping_arrives_in_fragments(self, guest):
        assert "2 packets received" in guest.sh(f"ping -c 2 -s 20000 {HOST}")

    def test_the_guest_sends_to_the_host_in_packets_larger_than_the_line(self, guest):
        packets, sent = statistic(guest, "tx_packets"), statistic(guest, "tx_bytes")
        result = iperf(guest, "-n", "64M", "-P", str(guest.queues))
        assert result["sum_received"]["bytes"] >= 60 * MIB  # the server stops to count when the client is done
        packets, sent = statistic(guest, "tx_packets") - packets, statistic(guest, "tx_bytes") - sent
        assert sent / packets > 3000

    def test_the_host_sends_to_the_guest_in_packets_larger_than_the_line(self, guest):
        packets, received = statistic(guest, "rx_packets"), statistic(guest, "rx_bytes")
        result = iperf(guest, "-R", "-n", "64M", "-P", str(guest.queues))
        assert result["sum_sent"]["bytes"] >= 63 * MIB
        packets, received = statistic(guest, "rx_packets") - packets, statistic(guest, "rx_bytes") - received
        assert received >= 63 * MIB
        assert received / packets > 3000

    def test_datagrams_arrive(self, guest):
        result = iperf(guest, "-u", "-b", "4M", "-t", "2", "-l", "1200")
        assert result["sum"]["packets"] > 100
        assert result["sum"]["lost_packets"] < result["sum"]["packets"] / 10

    def test_data_arrives_unchanged(self, guest):
        with socket.create_server((HOST, PORT + 1)) as server:
            server.settimeout(120)
            guest.console.send_script("dd if=/dev/urandom of=/tmp/sent bs=1M count=4 2>/dev/null; "
                                      f"nc {HOST} {PORT + 1} </tmp/sent | md5sum; md5sum </tmp/sent")
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)
        back, sent = guest.console.expect(r"^(\w+)  -\r?\n(\w+)  -\r?\n\r?\ngodwit-done: 0\r?\n").groups()
        assert back == sent

    def test_every_queue_carries_packets(self, guest):
        # The guest sends on the queue of the processor that a program runs on.
        for cpu in range(guest.queues):
            before = device(guest, "net0")["queues"][2 * cpu + 1]["chains"]
            guest.sh(f"taskset {1 << cpu:x} ping -c 3 -i 0.2 {HOST}")
            assert device(guest, "net0")["queues"][2 * cpu + 1]["chains"] >= before + 3

    def test_an_interface_that_is_switched_off_and_on_works_again(self, guest):
        guest.sh(f"ip link set eth0 down && ip link set eth0 up && ping -c 2 -w 20 {HOST}")

    def test_the_drivers_return_finds_the_device_as_new(self, guest):
        guest.sh("rmmod virtio_net && insmod /modules/virtio_net.ko && sleep 1 && "
                 f"ip address add {GUEST}/24 dev eth0 && ip link set eth0 up && ping -c 2 -w 20 {HOST}")
        assert device(guest, "net0")["violations"] == 0
        assert guest.kernel_complaints() == []
