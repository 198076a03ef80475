# SPDX-License-Identifier: BSD-2-Clause
"""RDMA between two stock guests, and with Linux's rxe on their host: the adapters share the guests' own interfaces (--rdma net=).

What runs in the guests is Debian's: libibverbs with the provider of rxe, its examples, perftest, librdmacm's rping, and the kernel's own
users of RDMA. The host is a peer of another make.
"""

import os
import subprocess
from pathlib import Path

import pytest

from support.devices import device
from support.stock import StockGuest
from support.vm import REPOSITORY

BRIDGE, HOST = "gwrdma", "10.99.79.1"
KERNEL = "6.12-generic"
PERFTEST = ("ib_write_bw", "ib_read_bw", "ib_send_bw", "ib_atomic_bw", "ib_write_lat")
TOOLS = (*PERFTEST, "rping")
MODULES = ("nvme-rdma", "nvmet-rdma", "rpcrdma", "nfsd", "nfsv4")
CACHE = Path(os.environ.get("GODWIT_CACHE") or REPOSITORY / ".cache")
UNLIMITED = "ulimit -l unlimited"


def address(number):
    return f"10.99.79.{10 + number}"


def address_6(number):
    return f"fd79::{10 + number}"


def ip(*words, check=True):
    subprocess.run(["ip", *words], check=check)


@pytest.fixture(scope="module")
def bridge():
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("there is no usable /dev/net/tun")
    ip("link", "add", BRIDGE, "mtu", "9000", "type", "bridge")
    ip("address", "add", f"{HOST}/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    yield
    ip("link", "delete", BRIDGE)


@pytest.fixture(scope="module")
def guests(bridge):
    """Two machines with an address of each kind."""
    machines, taps = [], []
    try:
        for number in (1, 2):
            tap = f"{BRIDGE}{number}"
            ip("tuntap", "add", "dev", tap, "mode", "tap")
            taps.append(tap)
            ip("link", "set", tap, "mtu", "9000", "master", BRIDGE, "up")
            machine = StockGuest("--net", f"tap:{tap},mac=52:54:00:12:79:0{number},mtu=9000,id=lan", "--rdma", "net=lan", kernel=KERNEL,
                                 rdma=True, tools=TOOLS, modules=MODULES)
            machines.append(machine)
            machine.__enter__()
        for number, machine in enumerate(machines, 1):
            machine.wait_ready()
            # Nobody else has the address.
            machine.sh("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; "
                       f"ip address add {address(number)}/24 dev eth0; ip -6 address add {address_6(number)}/64 dev eth0; "
                       "ip link set lo up; ip link set eth0 up")
            machine.address, machine.address_6 = address(number), address_6(number)
        yield machines
    finally:
        for machine in machines:
            machine.__exit__(None, None, None)
        for tap in taps:
            ip("link", "delete", tap, check=False)


@pytest.fixture(scope="module")
def rxe(bridge):
    """The host's own adapter, over the bridge; the index of its IPv4 address."""
    # rxe of 6.12 does not say that it needs this.
    modules = CACHE / f"kernels/{'.'.join(os.uname().release.split('.')[:2])}-generic"
    subprocess.run(["modprobe", "-d", modules, "crc32_generic"], check=False)
    if subprocess.run(["rdma", "link", "add", "rxe0", "type", "rxe", "netdev", BRIDGE], check=False).returncode:
        pytest.skip("the host has no rxe")
    yield "rxe0"
    subprocess.run(["rdma", "link", "delete", "rxe0"], check=True)


def gid_index(mapped):
    """Shell text that sets $gid to the index of an address as sysfs has it, when it is there."""
    return (f"for gid in 0 1 2 3 4 5 6 7 8; do [ $gid = 8 ] && sleep 0.2 && gid=0; "
            f"grep -q {mapped} /sys/class/infiniband/*/ports/1/gids/$gid && break; done")


V4, V6 = "0000:0000:0000:0000:0000:ffff:0a63:4f", "fd79:0000:0000:0000:0000:0000:0000:00"


def serve(machine, command, index=gid_index(V4)):
    """Starts the server's half of a program in the background."""
    machine.sh(f"rm -f /tmp/served; {index}; {UNLIMITED}; ({command} >/tmp/server 2>&1; echo $? >/tmp/served) >/dev/null 2>&1 &")


def ask(machine, command, index=gid_index(V4)):
    """Runs the client's half, again while there is no server yet; what it says."""
    return machine.sh(f"{index}; {UNLIMITED}; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do "
                      f"timeout 60 {command} >/tmp/client 2>&1 && cat /tmp/client && exit 0; sleep 0.5; done; cat /tmp/client; exit 1")


def served(machine):
    """What the server said, which is done."""
    return machine.sh("while [ ! -e /tmp/served ]; do sleep 0.1; done; cat /tmp/server; [ $(cat /tmp/served) = 0 ]")


def between(guests, command, index=gid_index(V4), to=None):
    """Both halves of a program that is started in the same way on both sides."""
    client, server = guests
    serve(server, command, index)
    said = ask(client, f"{command} {to or server.address}", index)
    return said, served(server)


def with_host(guest, rxe, command):
    """The same with the host as server."""
    script = f"{gid_index(V4).replace('infiniband/*', f'infiniband/{rxe}')}; {UNLIMITED}; exec timeout 120 {command} -d {rxe}"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as server:
        try:
            said = ask(guest, f"{command} {HOST}")
            other, _ = server.communicate(timeout=120)
        finally:
            server.kill()
    assert server.returncode == 0, other
    return said, other


@pytest.mark.parametrize("kind", ["rc", "uc", "ud", "srq"])
def test_pingpong_of_two_guests(guests, kind):
    for said in between(guests, f"ibv_{kind}_pingpong -g $gid -n 50 -c"):
        assert "50 iters in" in said


def test_pingpong_over_ipv6(guests):
    for said in between(guests, "ibv_rc_pingpong -g $gid -n 50 -c", gid_index(V6)):
        assert "50 iters in" in said


@pytest.mark.parametrize("kind", ["rc", "uc", "ud", "srq"])
def test_pingpong_with_rxe(guests, rxe, kind):
    for said in with_host(guests[0], rxe, f"ibv_{kind}_pingpong -g $gid -n 50 -c"):
        assert "50 iters in" in said


@pytest.mark.parametrize("program", PERFTEST)
def test_perftest_of_two_guests(guests, program):
    size = "" if "atomic" in program else "-s 65536"
    for said in between(guests, f"{program} -x $gid -F -n 50 {size}"):
        assert "bytes" in said


@pytest.mark.parametrize("program", PERFTEST)
def test_perftest_with_rxe(guests, rxe, program):
    size = "" if "atomic" in program else "-s 65536"
    for said in with_host(guests[0], rxe, f"{program} -x $gid -F -n 50 {size}"):
        assert "bytes" in said


def test_connections_are_managed(guests):
    """rping: librdmacm, and with it the kernel's connection manager; each message is written, read and compared."""
    client, server = guests
    serve(server, f"rping -s -a {server.address} -C 20 -V")
    ask(client, f"rping -c -a {server.address} -C 20 -V")
    served(server)


def test_connections_with_rxe_are_managed(guests, rxe):
    with subprocess.Popen(["sh", "-c", f"{UNLIMITED}; exec timeout 120 rping -s -a {HOST} -C 20 -V"], stdin=subprocess.DEVNULL) as server:
        try:
            ask(guests[0], f"rping -c -a {HOST} -C 20 -V")
            assert server.wait(120) == 0
        finally:
            server.kill()


TARGET = """
set -e
mount -t configfs none /sys/kernel/config
cd /sys/kernel/config/nvmet
head -c 8388608 /dev/urandom >/tmp/disk
mkdir -p subsystems/test/namespaces/1 ports/1
echo 1 >subsystems/test/attr_allow_any_host
echo -n /tmp/disk >subsystems/test/namespaces/1/device_path
echo 1 >subsystems/test/namespaces/1/buffered_io
echo 1 >subsystems/test/namespaces/1/enable
echo rdma >ports/1/addr_trtype
echo ipv4 >ports/1/addr_adrfam
echo %s >ports/1/addr_traddr
echo 4420 >ports/1/addr_trsvcid
ln -s $PWD/subsystems/test ports/1/subsystems/test
"""


def test_nvme_over_fabrics(guests):
    """A disk of one guest is the other's: read, written, compared by both."""
    host, target = guests
    target.sh(TARGET % target.address)
    host.sh(f"echo transport=rdma,traddr={target.address},trsvcid=4420,nqn=test >/dev/nvme-fabrics; "
            "while [ ! -b /dev/nvme0n1 ]; do sleep 0.1; done")
    read = host.sh("dd if=/dev/nvme0n1 bs=1M iflag=direct 2>/dev/null | sha256sum")
    assert read == target.sh("sha256sum </tmp/disk")
    host.sh("head -c 4194304 /dev/urandom >/tmp/new; dd if=/tmp/new of=/dev/nvme0n1 bs=512k seek=2 oflag=direct 2>/dev/null")
    assert host.sh("sha256sum </tmp/new") == target.sh("dd if=/tmp/disk bs=512k skip=2 count=8 2>/dev/null | sha256sum")
    host.sh("echo 1 >/sys/class/nvme/nvme0/delete_controller")


# What exportfs, rpc.mountd and rpc.nfsd of nfs-utils tell the kernel; without rpcbind there is no version 3.
SERVER = """
set -e
mount -t nfsd none /proc/fs/nfsd
mkdir -p /tmp/export /var/lib/nfs/v4recovery
mount -t tmpfs none /tmp/export
head -c 4194304 /dev/urandom >/tmp/export/file
echo -3 >/proc/fs/nfsd/versions
echo rdma 20049 >/proc/fs/nfsd/portlist
echo 2 >/proc/fs/nfsd/threads
echo Y >/proc/fs/nfsd/v4_end_grace
until=$(($(date +%%s) + 100000))
echo "nfsd %s $until client" >/proc/net/rpc/auth.unix.ip/channel
echo "client /tmp/export $until 0x2422 65534 65534 0" >/proc/net/rpc/nfsd.export/channel
echo "client 1 \\\\x00000000 $until /tmp/export" >/proc/net/rpc/nfsd.fh/channel
"""


def test_nfs(guests):
    """A folder of one guest is the other's: read, written, compared by both."""
    client, server = guests
    server.sh(SERVER % client.address)
    client.sh(f"mkdir -p /mnt/nfs; timeout 100 mount -t nfs4 -o vers=4.2,proto=rdma,port=20049,sec=sys,addr={server.address},"
              f"clientaddr={client.address} {server.address}:/ /mnt/nfs")
    assert "proto=rdma" in client.sh("grep /mnt/nfs /proc/mounts")
    assert client.sh("sha256sum </mnt/nfs/file") == server.sh("sha256sum </tmp/export/file")
    client.sh("head -c 4000001 /dev/urandom >/tmp/new; cp /tmp/new /mnt/nfs/new; sync")
    assert client.sh("sha256sum </tmp/new") == server.sh("sha256sum </tmp/export/new")
    client.sh("umount /mnt/nfs")


def test_nothing_was_lost_or_complained_of(guests):
    for machine in guests:
        report = device(machine, "rdma")
        assert report["port"] == "tap" and report["net"] == "lan" and report["packets-received"] > 1000
        assert report["packets-bad-crc"] == report["packets-unsent"] == 0
        assert not machine.kernel_complaints()
