# SPDX-License-Identifier: BSD-2-Clause
"""The RDMA device in a stock guest, with the driver of guest/virtio_rdma and the provider that distributions have: two
programs of the guest are each other's peers, over the host's socket.

Each machine is in a network namespace of its own: in the first one Linux's rxe may have the port.
"""

import os

import pytest

from support.stock import StockGuest
from support.vm import MIB

ADDRESS, MAC = "10.99.78.2", "52:54:00:12:34:78"
# What the machine is started by.
ALONE = ["unshare", "--net", "sh", "-c", f"ip link set lo up; ip address add {ADDRESS}/32 dev lo; exec \"$@\"", "sh"]


@pytest.fixture(scope="module")
def guest():
    """Its interface has the address that the host has too, for the device's socket."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("there is no usable /dev/net/tun")
    with StockGuest("--elastic", "id=mem0,max=256M", "--net", f"tap:,mac={MAC}", "--rdma", f"udp:{ADDRESS}", kernel="6.12-generic", rdma=True,
                    wrapper=ALONE) as guest:
        guest.wait_ready()
        guest.sh(f"ip address add {ADDRESS}/24 dev eth0; ip link set lo up; ip link set eth0 up")
        yield guest


def test_the_guest_sees_the_device(guest):
    said = guest.sh("ibv_devinfo -v")
    assert "PORT_ACTIVE" in said and f"::ffff:{ADDRESS}, RoCE v2" in said


@pytest.mark.parametrize("kind", ["rc", "uc", "ud", "srq"])
def test_pingpong(guest, kind):
    said = guest.sh(f"ibv_{kind}_pingpong -g 1 -n 100 >/tmp/server 2>&1 & sleep 1; "
                    f"ibv_{kind}_pingpong -g 1 -n 100 127.0.0.1 && wait && cat /tmp/server")
    assert said.count("100 iters in") == 2


def test_memory_grows_and_shrinks_meanwhile(guest):
    """What the guest has registered stays; all else may come and go."""
    guest.sh("(ibv_rc_pingpong -g 1 -s 65536 -n 1000 >/tmp/server 2>&1 & sleep 1; "
             "ibv_rc_pingpong -g 1 -s 65536 -n 1000 127.0.0.1; echo $? >/tmp/ended) >/tmp/client 2>&1 &")
    for size in (256, 0, 128, 0):
        guest.resize("mem0", size * MIB)
    guest.sh("while [ ! -e /tmp/ended ]; do sleep 0.2; done; cat /tmp/client; [ $(cat /tmp/ended) = 0 ]")
    assert "1000 iters in" in guest.sh("cat /tmp/server")


def test_the_kernel_has_no_complaints(guest):
    assert not guest.kernel_complaints()
