# SPDX-License-Identifier: BSD-2-Clause
"""Machines that move to another process over loopback TCP, godwit's and QEMU's, and a plain stream over the same loopback.

QEMU at its fastest: multifd, no limit of bandwidth, zeros found by its multifd threads (its default). Machines whose guest
never runs are without KVM there; for those that run, the smallest machine and firmware that start a guest through PVH.
"""

import mmap
import os
import re
import resource
import socket
import struct
import time
from pathlib import Path

from bench.support import qemu
from bench.support.snapshots import PAGE, processor_seconds
from support.vm import BUILD, MIB, Machine

LIMIT = 600
GUEST = BUILD / "tests/mini/dirtying.elf"
FIRST = 4 * MIB  # where it begins to write, and below it is itself
KVM_MACHINE = f"{qemu.SMALL_MACHINE.replace('isa-serial=off', 'isa-serial=on')},accel=kvm"
# KVM without hardware that is nested refuses that register, whatever the host has.
KVM_PROCESSOR = "host,-arch-capabilities"
SEND, RECEIVE = 128 << 10, 256 << 10  # bytes a call from and into a buffer: what stays in a processor's cache
CALL = MIB  # bytes a call from and into memory, as godwit has
POPULATE_WRITE = 23  # of madvise


class Move:
    """What a migration took: seconds, processor seconds of both ends, seconds that the guest stood still."""

    def __init__(self, seconds, processor, downtime):
        self.seconds, self.processor, self.downtime = seconds, processor, downtime


# --- Memory ---------------------------------------------------------------------------------------------


class Reserve:
    """Memory of the host that is taken before a measurement, and given back for it.

    A host that is a guest itself gives memory that is free for some seconds back to its own. Whoever touches it next pays for
    that, 2 s a GiB here, many times what a migration costs.
    """

    def __init__(self, size):
        self.size = size
        self.take()

    def take(self):
        self.memory = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, self.size, PAGE):
            self.memory[start] = 1

    def give(self):
        self.memory.close()


def memory_of(machine, size):
    """The memory of its process, as a file, and where in it the guest's is."""
    maps = Path(f"/proc/{machine.process.pid}/maps").read_text()
    address = next(int(start, 16) for start, end in re.findall(r"^(\w+)-(\w+) .*/memfd:", maps, re.MULTILINE)
                   if int(end, 16) - int(start, 16) == size)
    return open(f"/proc/{machine.process.pid}/mem", "r+b", buffering=0), address


def fill(machine, size, percent, zeros):
    """Gives a guest that has not run its content as if it had: random bytes in @percent of each MiB, and in the rest zeros that
    it has written, or nothing. All is in the monitor's page tables, as it is when a guest has touched it."""
    content = MIB * percent // 100
    block = bytearray(os.urandom(content) + bytes(MIB - content if zeros else 0))
    memory, address = memory_of(machine, size)
    with memory:
        for start in range(FIRST, size, MIB):
            for page in range(0, content, PAGE):
                struct.pack_into("<Q", block, page, start + page)
            os.pwrite(memory.fileno(), block, address + start)


def wait_writing(machine, size):
    """Until the guest is at its first round."""
    memory, address = memory_of(machine, size)
    with memory:
        while os.pread(memory.fileno(), 8, address + FIRST) != bytes([1, 0, 0, 0, 0, 0, 0, 0]):
            machine.check_alive()
            time.sleep(0.01)


def ended(machine):
    found = machine.qmp.event("MIGRATION", LIMIT, lambda data: data["status"] in ("completed", "failed"))
    assert found["status"] == "completed", found
    return found


# --- godwit ---------------------------------------------------------------------------------------------


class Godwit(Machine):
    """A paused source, whose guest will write."""

    def __init__(self, size, backing, cmdline, folder):
        super().__init__("--kernel", GUEST, "--cmdline", f"mini {cmdline}", "--memory", f"{size},backing={backing}",
                         "--paused", "--serial", f"file:{folder}/said", serial=False, console=False)
        self.qmp.command("query-status")

    def move(self, channels, before_move=lambda: None):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            uri = f"tcp:127.0.0.1:{probe.getsockname()[1]}"
        with Machine("--incoming", uri, "--log=info", serial=False, console=False) as destination:
            while "waiting for a VM" not in destination.stderr():
                destination.check_alive()
                time.sleep(0.01)
            before_move()
            pids = self.process.pid, destination.process.pid
            before, start = sum(map(processor_seconds, pids)), time.monotonic()
            self.qmp.command("godwit-migrate", uri=uri, channels=channels)
            report = ended(self)
            seconds, processor = time.monotonic() - start, sum(map(processor_seconds, pids)) - before
            return Move(seconds, processor, report["downtime"]["total-ns"] / 1e9)


# --- QEMU -----------------------------------------------------------------------------------------------


class Qemu(Machine):
    """The same; without @cmdline no guest will run, and no KVM is set up for it."""

    def __init__(self, size, backing, cmdline, folder, *arguments):
        words, environment = qemu.program()
        self.made = size, backing, cmdline, folder
        self._prepare(None, environment)
        command = [*words, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", f"{size // MIB}M",
                   *qemu.memory_object("ram", size, backing),
                   "-qmp", f"unix:{self.directory}/{self.name}.sock,server=on,wait=off"]
        if not cmdline:
            command += ["-accel", "tcg,tb-size=16", "-machine", f"{qemu.ELASTIC_MACHINE},memory-backend=ram"]
        else:
            command += ["-machine", f"{KVM_MACHINE},memory-backend=ram", "-cpu", KVM_PROCESSOR, "-bios", "qboot.rom",
                        "-kernel", str(GUEST), "-append", f"mini {cmdline}", "-serial", f"file:{folder}/said"]
        self._launch([*command, *arguments])
        self.qmp.command("query-status")  # it has made its memory

    def prepare(self, channels):
        self.qmp.command("migrate-set-capabilities",
                         capabilities=[{"capability": name, "state": True} for name in ("events", "multifd")])
        self.qmp.command("migrate-set-parameters", **{"max-bandwidth": 0, "multifd-channels": channels})

    def move(self, channels, before_move=lambda: None):
        with Qemu(*self.made, "-incoming", "defer") as destination:
            self.prepare(channels)
            destination.prepare(channels)
            with socket.create_server(("127.0.0.1", 0)) as probe:
                uri = f"tcp:127.0.0.1:{probe.getsockname()[1]}"
            destination.qmp.command("migrate-incoming", uri=uri)
            before_move()
            pids = self.process.pid, destination.process.pid
            before, start = sum(map(processor_seconds, pids)), time.monotonic()
            self.qmp.command("migrate", uri=uri)
            ended(self)
            ended(destination)
            seconds, processor = time.monotonic() - start, sum(map(processor_seconds, pids)) - before
            return Move(seconds, processor, self.qmp.command("query-migrate")["downtime"] / 1e3)


# --- The loopback ---------------------------------------------------------------------------------------


def used():
    """Processor seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def child(function, *arguments):
    """Runs it in a process of its own, which is returned with a connection to it. What the function calls when it is ready
    waits for a byte; from then on its processor time counts, which comes back."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        before = []

        def begin():
            theirs.send(b"r")
            theirs.recv(1)
            before.append(used())

        function(*arguments, begin)
        theirs.send(struct.pack("<d", used() - before[0]))
        os._exit(0)
    finally:
        os._exit(1)


def mapped(memory, start, size):
    """A part of the memory, with all of its pages in the page tables of this process; without memory a small buffer."""
    if memory is None:
        return memoryview(bytearray(os.urandom(size)))
    memory.madvise(POPULATE_WRITE, start, size)
    return memoryview(memory)[start:start + size]


def send_stream(connection, memory, start, size, begin):
    buffer = mapped(memory, start, size if memory else SEND)
    call = CALL if memory else SEND
    begin()
    done = 0
    while done < size:
        at = done % len(buffer)
        done += connection.send(buffer[at:at + min(call, size - done)])


def receive_stream(connection, memory, start, size, begin):
    buffer = mapped(memory, start, size if memory else RECEIVE)
    call = CALL if memory else RECEIVE
    begin()
    done = 0
    while done < size:
        at = done % len(buffer)
        done += connection.recv_into(buffer[at:at + min(call, size - done)])


def stream(size, channels, memories=(None, None)):
    """Seconds to send so many bytes from process to process over so many connections, and processor seconds; nothing else is
    done with them. From and into small buffers that stay in the cache, or from and into @memories, of that size."""
    part = size // channels
    with socket.create_server(("127.0.0.1", 0)) as server:
        children = []
        for channel in range(channels):
            with socket.create_connection(server.getsockname()) as sender, server.accept()[0] as receiver:
                children.append(child(send_stream, sender, memories[0], channel * part, part))
                children.append(child(receive_stream, receiver, memories[1], channel * part, part))
    for _, connection in children:
        assert connection.recv(1) == b"r"
    start = time.monotonic()
    for _, connection in children:
        connection.send(b"g")
    processor = sum(struct.unpack("<d", connection.recv(8))[0] for _, connection in children)
    seconds = time.monotonic() - start
    for pid, connection in children:
        connection.close()
        assert os.waitpid(pid, 0)[1] == 0
    return seconds, processor


def stream_of_memory(size, channels):
    """The same from and into as much memory, which is there on both sides."""
    memories = mmap.mmap(-1, size), mmap.mmap(-1, size)
    for memory in memories:
        block = os.urandom(MIB)
        for start in range(0, size, MIB):
            memory[start:start + MIB] = block
    try:
        return stream(size, channels, memories)
    finally:
        for memory in memories:
            memory.close()
