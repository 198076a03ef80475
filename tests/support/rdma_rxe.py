#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Linux's rxe and the RDMA engine, over a pair of virtual network interfaces: what tests/tools/test_rdma_rxe.py runs on
an emulated host. Usage: rdma_rxe.py MODULES PEER (a folder of kernel modules, the program rdma-peer)

Says a line `ok CASE` for each case, or `failed CASE` and why; the exit status is 1 then.
"""

import ipaddress
import os
import random
import subprocess
import sys
import time
import traceback
import zlib

HERE, THERE = {4: "10.66.0.1", 6: "fd66::1"}, {4: "10.66.0.2", 6: "fd66::2"}
SIZE, MTUS = 3 << 20, {256: 1, 512: 2, 1024: 3, 2048: 4, 4096: 5}
WITH_IMMEDIATE, WITH_INVALIDATE, SIGNALED = 1, 2, 1 << 8
SEND, WRITE, READ, BIND, RECEIVE, RECEIVE_WRITE = 1, 2, 3, 6, 8, 9
RC, UC, UD = 1, 2, 3
QUEUE_KEY = 0x1234567
LOCAL_LENGTH, REMOTE_ACCESS, RETRIES_EXCEEDED = 1, 8, 10  # statuses of the engine
LIMIT = 100


def run(*command):
    subprocess.run(command, check=True)


def set_up(modules):
    for name in ("crc32_generic", "veth", "sch_netem", "ib_uverbs", "rdma_rxe"):
        subprocess.run(["modprobe", "-d", modules, name], check=False)
    run("ip", "netns", "add", "peer")
    run("ip", "link", "add", "rxe-a", "mtu", "9000", "type", "veth", "peer", "name", "rxe-b")
    run("ip", "link", "set", "rxe-b", "netns", "peer")
    run("ip", "addr", "add", f"{HERE[4]}/24", "dev", "rxe-a")
    run("ip", "addr", "add", f"{HERE[6]}/64", "dev", "rxe-a", "nodad")
    run("ip", "link", "set", "rxe-a", "up")
    run("ip", "-n", "peer", "addr", "add", f"{THERE[4]}/24", "dev", "rxe-b")
    run("ip", "-n", "peer", "addr", "add", f"{THERE[6]}/64", "dev", "rxe-b", "nodad")
    run("ip", "-n", "peer", "link", "set", "rxe-b", "mtu", "9000", "up")
    run("rdma", "link", "add", "rxe0", "type", "rxe", "netdev", "rxe-a")


def gid(address):
    """As rxe and libibverbs write it."""
    number = ipaddress.ip_address(address)
    if number.version == 4:
        number = ipaddress.ip_address(f"::ffff:{address}")
    return number.exploded


def gid_index(address):
    folder = "/sys/class/infiniband/rxe0/ports/1/gids"
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        for index in range(8):
            with open(f"{folder}/{index}", encoding="ascii") as file:
                if file.read().strip() == gid(address):
                    return index
        time.sleep(0.1)
    raise AssertionError(f"rxe does not take its address {address}")


class Peer:
    """The engine's end."""

    def __init__(self, program, version):
        self.version = version
        self.process = subprocess.Popen(["ip", "netns", "exec", "peer", program, THERE[version]], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        said = self.process.stdout.readline().split()
        assert said and said[0] != "what?", (line, said)
        return said[1:]

    def sum(self, offset, size):
        return int(self.ask(f"sum {offset} {size}")[0])

    def number(self, offset):
        return int(self.ask(f"number {offset}")[0])

    def wait(self):
        """Operation, status, bytes, flags, immediate of the next completion; zeros: there was none."""
        return [int(word) for word in self.ask("wait")]


class Session:
    """A queue pair of rxe, connected to one of the engine."""

    def __init__(self, peer, mtu, service=RC):
        from pyverbs.addr import AH, AHAttr, GID, GlobalRoute
        from pyverbs.cq import CQ
        from pyverbs.device import Context
        from pyverbs.mr import MR
        from pyverbs.pd import PD
        from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
        import pyverbs.enums as e

        self.e, self.peer, self.service = e, peer, service
        self.context = Context(name="rxe0")
        self.domain = PD(self.context)
        access = (e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
                  | e.IBV_ACCESS_REMOTE_ATOMIC)
        self.memory = MR(self.domain, SIZE, access | e.IBV_ACCESS_MW_BIND)
        self.queue = CQ(self.context, 256)
        cap = QPCap(max_send_wr=64, max_recv_wr=64, max_send_sge=1, max_recv_sge=1)
        kind = {RC: e.IBV_QPT_RC, UC: e.IBV_QPT_UC, UD: e.IBV_QPT_UD}[service]
        self.pair = QP(self.domain, QPInitAttr(qp_type=kind, scq=self.queue, rcq=self.queue, cap=cap, sq_sig_all=1))
        attributes = QPAttr(port_num=1)
        if service == UD:
            attributes.qkey = QUEUE_KEY
        else:
            attributes.qp_access_flags = access if service == RC else access & ~e.IBV_ACCESS_REMOTE_ATOMIC
        self.pair.to_init(attributes)
        psn = random.randrange(1 << 24)
        number, their_psn, self.key, self.address = map(
            int, peer.ask(f"connect {service} {mtu} {self.pair.qp_num} {psn} {HERE[peer.version]}"))
        route = GlobalRoute(dgid=GID(gid(THERE[peer.version])), sgid_index=gid_index(HERE[peer.version]))
        way = AHAttr(port_num=1, is_global=1, gr=route)
        self.handle = AH(self.domain, attr=way) if service == UD else None
        self.their_number = number
        attributes.ah_attr = way
        attributes.dest_qp_num = number
        attributes.path_mtu = MTUS[mtu]
        attributes.rq_psn = their_psn
        attributes.max_dest_rd_atomic = 4
        attributes.min_rnr_timer = 12
        self.pair.to_rtr(attributes)
        attributes.sq_psn = psn
        attributes.timeout = 17
        attributes.retry_cnt = 7
        attributes.rnr_retry = 7
        attributes.max_rd_atomic = 4
        self.pair.to_rts(attributes)

    def close(self):
        for what in filter(None, (self.handle, self.pair, self.queue, self.memory, self.domain, self.context)):
            what.close()

    def segment(self, offset, size):
        from pyverbs.wr import SGE
        return SGE(self.memory.buf + offset, size, self.memory.lkey)

    def post(self, opcode, offset, size, remote=0, immediate=0, compare=0, swap=0, key=None):
        from pyverbs.wr import SendWR
        work = SendWR(opcode=opcode, num_sge=1, sg=[self.segment(offset, size)], imm_data=immediate)
        key = self.key if key is None else key
        if opcode in (self.e.IBV_WR_ATOMIC_FETCH_AND_ADD, self.e.IBV_WR_ATOMIC_CMP_AND_SWP):
            work.set_wr_atomic(key, self.address + remote, compare, swap)
        elif self.service == UD:
            work.set_wr_ud(self.handle, self.their_number, QUEUE_KEY)
        elif opcode not in (self.e.IBV_WR_SEND, self.e.IBV_WR_SEND_WITH_IMM, self.e.IBV_WR_SEND_WITH_INV):
            work.set_wr_rdma(key, self.address + remote)
        self.pair.post_send(work)

    def receive(self, offset, size):
        from pyverbs.wr import RecvWR
        self.pair.post_recv(RecvWR(num_sge=1, sg=[self.segment(offset, size)]))

    def wait(self):
        deadline = time.monotonic() + (LIMIT if self.service == RC else LIMIT / 5)
        while time.monotonic() < deadline:
            count, completions = self.queue.poll(1)
            if count:
                return completions[0]
            time.sleep(0.001)
        raise AssertionError("rxe has no completion")

    def done(self):
        completion = self.wait()
        assert completion.status == self.e.IBV_WC_SUCCESS, completion.status
        return completion

    def fill(self, offset, size):
        data = random.randbytes(size)
        self.memory.write(data, size, offset)
        return zlib.crc32(data)

    def sum(self, offset, size):
        return zlib.crc32(self.memory.read(size, offset)) if size else 0

    def number(self, offset):
        return int.from_bytes(self.memory.read(8, offset), "little")

    def theirs(self, operation, offset, size, remote=0, flags=0, a=0, b=0, key=None):
        """The engine posts work that reaches rxe's memory."""
        key = self.memory.rkey if key is None else key
        self.peer.ask(f"post {operation} {offset} {size} {self.memory.buf + remote} {key} {flags | SIGNALED} {a} {b}")


LENGTHS = [0, 1, 3, 255, 256, 257, 1023, 4096, 4097, 70001, 300003]


def rxe_writes(s):
    for size in LENGTHS:
        expected = s.fill(1000, size)
        s.post(s.e.IBV_WR_RDMA_WRITE, 1000, size, remote=5001)
        s.done()
        assert s.peer.sum(5001, size) == expected, size


def rxe_writes_with_immediate(s):
    s.peer.ask("receive 0 0")
    expected = s.fill(0, 3000)
    s.post(s.e.IBV_WR_RDMA_WRITE_WITH_IMM, 0, 3000, remote=100, immediate=0x01020304)
    s.done()
    operation, status, size, flags, immediate = s.peer.wait()
    assert (operation, status, size, flags) == (RECEIVE_WRITE, 0, 3000, WITH_IMMEDIATE)
    assert immediate in (0x01020304, 0x04030201)
    assert s.peer.sum(100, 3000) == expected


def rxe_sends(s):
    for size in LENGTHS:
        s.peer.ask(f"receive 7 {size}")
        expected = s.fill(0, size)
        s.post(s.e.IBV_WR_SEND, 0, size)
        s.done()
        assert s.peer.wait()[:3] == [RECEIVE, 0, size]
        assert s.peer.sum(7, size) == expected, size


def rxe_waits_for_a_receive(s):
    s.post(s.e.IBV_WR_SEND, 0, 5000)
    time.sleep(0.5)
    s.peer.ask("receive 0 5000")
    s.done()
    assert s.peer.wait()[:3] == [RECEIVE, 0, 5000]


def rxe_reads(s):
    for size in LENGTHS:
        s.peer.ask(f"fill 33 {max(size, 1)} {size + 1}")
        s.post(s.e.IBV_WR_RDMA_READ, 2000, size, remote=33)
        s.done()
        assert s.sum(2000, size) == s.peer.sum(33, size), size


def rxe_adds_and_swaps(s):
    before = s.peer.number(64)
    s.post(s.e.IBV_WR_ATOMIC_FETCH_AND_ADD, 8, 8, remote=64, compare=41)
    s.done()
    assert (s.number(8), s.peer.number(64)) == (before, (before + 41) % (1 << 64))
    s.post(s.e.IBV_WR_ATOMIC_CMP_AND_SWP, 8, 8, remote=64, compare=(before + 41) % (1 << 64), swap=7)
    s.done()
    assert (s.number(8), s.peer.number(64)) == ((before + 41) % (1 << 64), 7)
    s.post(s.e.IBV_WR_ATOMIC_CMP_AND_SWP, 8, 8, remote=64, compare=8, swap=9)
    s.done()
    assert (s.number(8), s.peer.number(64)) == (7, 7)


def rxe_has_many_requests_under_way(s):
    expected = s.fill(0, 400000)
    for i in range(40):
        s.post(s.e.IBV_WR_RDMA_WRITE, i * 10000, 10000, remote=i * 10000)
    for i in range(10):
        s.post(s.e.IBV_WR_RDMA_READ, 400000 + i * 40000, 40000, remote=i * 40000)
    for _ in range(50):
        s.done()
    assert s.peer.sum(0, 400000) == expected
    assert s.sum(400000, 400000) == expected


def engine_writes(s):
    for size in LENGTHS:
        s.peer.ask(f"fill 11 {max(size, 1)} {size + 2}")
        s.theirs("write", 11, size, remote=77)
        assert s.peer.wait()[:2] == [WRITE, 0]
        assert s.sum(77, size) == s.peer.sum(11, size), size


def engine_writes_with_immediate(s):
    s.receive(0, 0)
    s.theirs("write", 0, 3000, remote=50000, flags=WITH_IMMEDIATE, a=0x05060708)
    assert s.peer.wait()[:2] == [WRITE, 0]
    completion = s.done()
    assert completion.byte_len == 3000
    assert completion.imm_data in (0x05060708, 0x08070605)
    assert s.sum(50000, 3000) == s.peer.sum(0, 3000)


def engine_sends(s):
    for size in LENGTHS:
        s.peer.ask(f"fill 0 {max(size, 1)} {size + 3}")
        s.receive(3, size)
        s.theirs("send", 0, size)
        assert s.peer.wait()[:2] == [SEND, 0]
        assert s.done().byte_len == size
        assert s.sum(3, size) == s.peer.sum(0, size), size


def engine_waits_for_a_receive(s):
    s.theirs("send", 0, 5000)
    time.sleep(0.5)
    s.receive(0, 5000)
    assert s.peer.wait()[:2] == [SEND, 0]
    s.done()


def engine_reads(s):
    for size in LENGTHS:
        expected = s.fill(5, size)
        s.theirs("read", 9000, size, remote=5)
        assert s.peer.wait()[:3] == [READ, 0, size]
        assert s.peer.sum(9000, size) == expected, size


def engine_adds_and_swaps(s):
    s.memory.write((1000).to_bytes(8, "little"), 8, 128)
    s.theirs("add", 16, 8, remote=128, b=23)
    assert s.peer.wait()[1] == 0
    assert (s.peer.number(16), s.number(128)) == (1000, 1023)
    s.theirs("swap", 16, 8, remote=128, a=1023, b=5)
    assert s.peer.wait()[1] == 0
    assert (s.peer.number(16), s.number(128)) == (1023, 5)
    s.theirs("swap", 16, 8, remote=128, a=1, b=6)
    assert s.peer.wait()[1] == 0
    assert (s.peer.number(16), s.number(128)) == (5, 5)


def engine_has_many_requests_under_way(s):
    s.peer.ask("fill 0 400000 9")
    for i in range(40):
        s.theirs("write", i * 10000, 10000, remote=i * 10000)
    for i in range(10):
        s.theirs("read", 400000 + i * 40000, 40000, remote=i * 40000)
    for _ in range(50):
        assert s.peer.wait()[1] == 0
    assert s.sum(0, 400000) == s.peer.sum(0, 400000) == s.peer.sum(400000, 400000)


def rxe_is_refused_with_a_bad_key(s):
    s.post(s.e.IBV_WR_RDMA_WRITE, 0, 100, key=s.key ^ 1)
    assert s.wait().status == s.e.IBV_WC_REM_ACCESS_ERR


def rxe_is_refused_past_the_end(s):
    s.post(s.e.IBV_WR_RDMA_READ, 0, 100, remote=(4 << 20) - 99)
    assert s.wait().status == s.e.IBV_WC_REM_ACCESS_ERR


def rxe_is_told_that_its_message_is_too_long(s):
    s.peer.ask("receive 0 99")
    s.post(s.e.IBV_WR_SEND, 0, 100)
    assert s.wait().status == s.e.IBV_WC_REM_INV_REQ_ERR
    assert s.peer.wait()[:2] == [RECEIVE, LOCAL_LENGTH]


def engine_is_refused_with_a_bad_key(s):
    s.theirs("write", 0, 100, key=s.memory.rkey ^ 1)
    assert s.peer.wait()[:2] == [WRITE, REMOTE_ACCESS]


def engine_gives_up_a_peer_that_is_gone(s):
    s.pair.close()
    s.theirs("write", 0, 100)
    said = s.peer.wait()
    assert said[:2] == [WRITE, RETRIES_EXCEEDED], said


def rxe_uses_a_window_until_it_invalidates_it(s):
    key = int(s.peer.ask("bind 100000 5000")[0])
    assert s.peer.wait()[:2] == [BIND, 0]
    expected = s.fill(0, 4000)
    s.post(s.e.IBV_WR_RDMA_WRITE, 0, 4000, remote=101000, key=key)
    s.done()
    assert s.peer.sum(101000, 4000) == expected
    for size in (10, 3000):  # the second one has nothing left to invalidate
        s.peer.ask(f"receive 0 {size}")
        s.post(s.e.IBV_WR_SEND_WITH_INV, 0, size, immediate=key)
        if size == 10:
            s.done()
            assert s.peer.wait()[:4] == [RECEIVE, 0, size, WITH_INVALIDATE]
    assert s.wait().status == s.e.IBV_WC_REM_ACCESS_ERR


def rxe_is_refused_outside_a_window(s):
    key = int(s.peer.ask("bind 100000 5000")[0])
    assert s.peer.wait()[:2] == [BIND, 0]
    s.post(s.e.IBV_WR_RDMA_WRITE, 0, 4000, remote=101001, key=key)
    assert s.wait().status == s.e.IBV_WC_REM_ACCESS_ERR


def engine_uses_a_window_until_it_invalidates_it(s):
    from pyverbs.mr import MW, MWBindInfo
    from pyverbs.wr import SendWR
    window = MW(s.domain, s.e.IBV_MW_TYPE_2)
    key = (window.rkey & ~0xff) | ((window.rkey + 1) & 0xff)  # as libibverbs makes it
    work = SendWR(opcode=s.e.IBV_WR_BIND_MW)
    work.set_bind_wr(window, MWBindInfo(s.memory, s.memory.buf + 100000, 5000, s.e.IBV_ACCESS_REMOTE_WRITE))
    s.pair.post_send(work)
    s.done()
    s.peer.ask("fill 0 4000 5")
    s.theirs("write", 0, 4000, remote=100100, key=key)
    assert s.peer.wait()[:2] == [WRITE, 0]
    assert s.sum(100100, 4000) == s.peer.sum(0, 4000)
    s.receive(0, 3000)
    s.theirs("send", 0, 3000, flags=WITH_INVALIDATE, a=key)
    assert s.peer.wait()[:2] == [SEND, 0]
    assert s.done().byte_len == 3000
    s.theirs("write", 0, 4000, remote=100100, key=key)
    assert s.peer.wait()[:2] == [WRITE, REMOTE_ACCESS]
    window.close()


def rxe_waits_for_memory(s):
    """As in post-copy: what is not there makes rxe come again, and blocks nothing."""
    not_ready = int(s.peer.ask("counters")[2])
    for start in (100000, 102500):  # from the beginning on, and in the middle
        expected = s.fill(0, 5000)
        s.peer.ask(f"absent {start} 300")
        s.post(s.e.IBV_WR_RDMA_WRITE, 0, 5000, remote=100000)
        s.done()
        assert s.peer.sum(100000, 5000) == expected
        s.peer.ask(f"absent {start} 300")
        s.post(s.e.IBV_WR_RDMA_READ, 10000, 5000, remote=100000)
        s.done()
        assert s.sum(10000, 5000) == expected
        s.peer.ask("receive 100000 5000")
        s.peer.ask(f"absent {start} 300")
        expected = s.fill(0, 5000)
        s.post(s.e.IBV_WR_SEND, 0, 5000)
        s.done()
        assert s.peer.wait()[:3] == [RECEIVE, 0, 5000]
        assert s.peer.sum(100000, 5000) == expected
    before = s.peer.number(100000)
    s.peer.ask("absent 100000 300")
    s.post(s.e.IBV_WR_ATOMIC_FETCH_AND_ADD, 8, 8, remote=100000, compare=1)
    s.done()
    assert (s.number(8), s.peer.number(100000)) == (before, (before + 1) % (1 << 64))
    assert int(s.peer.ask("counters")[2]) >= not_ready + 7


def rxe_waits_for_memory_in_the_middle_of_a_long_read(s):
    """Longer than its own time-out (0.54 s), which asks for the rest again."""
    size = 2 << 20
    s.peer.ask(f"fill 100000 {size} 8")
    s.peer.ask(f"absent {100000 + (3 << 19)} 1200")
    s.post(s.e.IBV_WR_RDMA_READ, 0, size, remote=100000)
    s.done()
    assert s.sum(0, size) == s.peer.sum(100000, size)
    s.post(s.e.IBV_WR_RDMA_WRITE, 0, 5000, remote=10)
    s.done()
    assert s.sum(0, 5000) == s.peer.sum(10, 5000)


def datagrams_of_rxe_arrive(s):
    for size in (0, 1, 1023, 1024):
        s.peer.ask(f"receive 100 {size + 40}")
        expected = s.fill(0, size)
        s.post(s.e.IBV_WR_SEND, 0, size)
        s.done()
        assert s.peer.wait()[:3] == [RECEIVE, 0, size + 40]
        assert s.peer.sum(140, size) == expected, size


def datagrams_of_the_engine_arrive(s):
    for size in (0, 1, 1023, 1024):
        s.peer.ask(f"fill 0 {max(size, 1)} {size + 5}")
        s.receive(200, size + 40)
        s.theirs("send", 0, size)
        assert s.peer.wait()[:2] == [SEND, 0]
        completion = s.done()
        assert completion.byte_len == size + 40
        assert s.sum(240, size) == s.peer.sum(0, size), size


def unreliable_messages_of_rxe_arrive(s):
    for size in LENGTHS[:-1]:
        expected = s.fill(0, size)
        s.post(s.e.IBV_WR_RDMA_WRITE, 0, size, remote=700)
        s.done()
        s.peer.ask(f"receive 200000 {size}")
        s.post(s.e.IBV_WR_SEND, 0, size)
        s.done()
        assert s.peer.wait()[:3] == [RECEIVE, 0, size]
        assert s.peer.sum(200000, size) == s.peer.sum(700, size) == expected, size


def unreliable_messages_of_the_engine_arrive(s):
    for size in LENGTHS[:-1]:
        s.peer.ask(f"fill 0 {max(size, 1)} {size + 6}")
        s.theirs("write", 0, size, remote=700)
        assert s.peer.wait()[:2] == [WRITE, 0]
        s.receive(200000, size)
        s.theirs("send", 0, size)
        assert s.peer.wait()[:2] == [SEND, 0]
        assert s.done().byte_len == size
        assert s.sum(200000, size) == s.sum(700, size) == s.peer.sum(0, size), size


def works_on_a_bad_network(s):
    """What either sends is lost, doubled and late: requests, answers, acknowledgements."""
    s.peer.ask("fault 20 50 20 7")
    run("tc", "qdisc", "add", "dev", "rxe-a", "root", "netem", "loss", "1%", "duplicate", "3%", "delay", "1ms",
        "reorder", "98%")
    try:
        for size in (100, 9000, 100001):
            for case in (1, 2):
                expected = s.fill(1000, size)
                s.post(s.e.IBV_WR_RDMA_WRITE, 1000, size, remote=5001)
                s.done()
                assert s.peer.sum(5001, size) == expected, (size, case)
                s.post(s.e.IBV_WR_RDMA_READ, 300000, size, remote=5001)
                s.done()
                assert s.sum(300000, size) == expected, (size, case)
                s.peer.ask(f"fill 700000 {size} {size + case}")
                s.theirs("write", 700000, size, remote=77)
                assert s.peer.wait()[:2] == [WRITE, 0]
                assert s.sum(77, size) == s.peer.sum(700000, size), (size, case)
                s.theirs("read", 1500000, size, remote=77)
                assert s.peer.wait()[:2] == [READ, 0]
                assert s.peer.sum(1500000, size) == s.peer.sum(700000, size), (size, case)
        before = s.peer.number(64)
        for _ in range(50):
            s.post(s.e.IBV_WR_ATOMIC_FETCH_AND_ADD, 8, 8, remote=64, compare=1)
            s.done()
        assert s.peer.number(64) == before + 50
        s.memory.write(bytes(8), 8, 128)
        for _ in range(50):
            s.theirs("add", 16, 8, remote=128, b=1)
            assert s.peer.wait()[1] == 0
        assert s.number(128) == 50
    finally:
        s.peer.ask("fault 0 0 0 0")
        run("tc", "qdisc", "del", "dev", "rxe-a", "root")


PINGPONG_SERVER = r"""
import socket, sys
with socket.create_server((sys.argv[1], 18515)) as listener:
    print("listening", flush=True)
    connection, _ = listener.accept()
    with connection:
        print(connection.recv(64).decode().strip("\0"), flush=True)
        connection.sendall(sys.stdin.readline().strip().encode() + b"\0")
        connection.recv(64)  # "done"
        sys.stdin.readline()
"""


def stock_pingpong(peer, size, count):
    """ibv_rc_pingpong, unmodified, as the client of the engine."""
    server = subprocess.Popen(["ip", "netns", "exec", "peer", sys.executable, "-c", PINGPONG_SERVER, THERE[4]],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert server.stdout.readline() == "listening\n"
    command = ["ibv_rc_pingpong", "-d", "rxe0", "-g", str(gid_index(HERE[4])), "-s", str(size), "-n", str(count), "-c",
               THERE[4]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as client:
        _, number, psn, _ = server.stdout.readline().split(":")
        ours = peer.ask(f"connect {RC} 1024 {int(number, 16)} {int(psn, 16)} {HERE[4]}")
        for _ in range(count):
            peer.ask(f"receive 0 {size}")
        address = ipaddress.ip_address(f"::ffff:{THERE[4]}").packed.hex()
        server.stdin.write(f"0000:{int(ours[0]):06x}:{int(ours[1]):06x}:{address}\n")
        for _ in range(count):
            assert peer.wait()[:3] == [RECEIVE, 0, size]
            peer.ask(f"post send 0 {size} 0 0 {SIGNALED} 0 0")
            assert peer.wait()[:2] == [SEND, 0]
        said = client.communicate()[0]
    server.stdin.close()
    server.wait()
    assert client.returncode == 0 and f"{count} iters" in said, said


def pingpong_of_libibverbs_runs(s):
    for size, count in ((64, 30), (4096, 30), (65536, 10)):
        stock_pingpong(s.peer, size, count)


EACH_MTU = [rxe_writes, rxe_sends, rxe_reads, engine_writes, engine_sends, engine_reads]
ONCE = [rxe_writes_with_immediate, rxe_waits_for_a_receive, rxe_adds_and_swaps, rxe_has_many_requests_under_way,
        engine_writes_with_immediate, engine_waits_for_a_receive, engine_adds_and_swaps,
        engine_has_many_requests_under_way, rxe_is_refused_with_a_bad_key, rxe_is_refused_past_the_end,
        rxe_is_told_that_its_message_is_too_long, engine_is_refused_with_a_bad_key, engine_gives_up_a_peer_that_is_gone,
        rxe_uses_a_window_until_it_invalidates_it, rxe_is_refused_outside_a_window,
        engine_uses_a_window_until_it_invalidates_it, rxe_waits_for_memory,
        rxe_waits_for_memory_in_the_middle_of_a_long_read, pingpong_of_libibverbs_runs, works_on_a_bad_network]
CASES = {f"{case.__name__}_{mtu}": (case, mtu) for mtu in MTUS for case in EACH_MTU} | {
    case.__name__: (case, 1024) for case in ONCE}
CASES = {name: (*case, RC, 4) for name, case in CASES.items()} | {
    f"{case.__name__}_ipv6": (case, 1024, RC, 6) for case in EACH_MTU} | {
    case.__name__: (case, 1024, service, 4) for case, service in (
        (unreliable_messages_of_rxe_arrive, UC), (unreliable_messages_of_the_engine_arrive, UC),
        (datagrams_of_rxe_arrive, UD), (datagrams_of_the_engine_arrive, UD))}


def run_case(peer, case, mtu, service):
    session = Session(peer, mtu, service)
    try:
        case(session)
    finally:
        session.close()
    bad_crc, bad_answers, _, received = map(int, peer.ask("counters"))
    assert received and (bad_crc, bad_answers) == (0, 0), (bad_crc, bad_answers)


def main():
    modules, program = sys.argv[1:]
    random.seed(6)
    set_up(modules)
    peers, failed = {version: Peer(program, version) for version in HERE}, False
    for name, (case, mtu, service, version) in CASES.items():
        peer = peers[version]
        # A packet of UC or UD may be lost where a processor is emulated on a busy machine.
        for _ in range(1 if service == RC else 3):
            began = time.monotonic()
            try:
                run_case(peer, case, mtu, service)
                why = None
                break
            except Exception:  # whatever it is, the next case tells more
                why = traceback.format_exc()
        failed |= why is not None
        print(f"failed {name}: {why}" if why else f"ok {name} {time.monotonic() - began:.2f}", flush=True)
        if peer.process.poll() is not None:
            break
    for peer in peers.values():
        peer.process.stdin.close()
    return failed


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.exit(main())
