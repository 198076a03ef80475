# SPDX-License-Identifier: BSD-2-Clause
"""Stock guests that are saved, killed and go on: their programs verify their memory, their disk and their clock."""

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from support.stock import RestoredGuest, StockGuest, image, wait_until
from support.vm import GIB, GODWIT, MIB

# Boot memory, elastic memory, processors, kernel: every backing and both ends of the rest.
MACHINES = {
    "memfd-1-cpu": ("256M,backing=memfd", "backing=hugetlb", 1, "6.12-cloud"),
    "huge-4-cpus": ("256M,backing=hugetlb", "backing=memfd,block=4M", 4, "6.1-cloud"),
    "anon-4-cpus": ("256M,backing=anon", "backing=anon", 4, "6.12-cloud"),
}
STRESS = ("stress-ng --vm 1 --vm-bytes 96M --vm-method all --verify -t 0 --temp-path /tmp >/tmp/stress 2>&1 & "
          "echo $! >/tmp/stress.pid; "
          "(i=0; while :; do i=$((i+1)); echo $i >/tmp/new; mv /tmp/new /tmp/count; sleep 0.02; done) "
          ">/dev/null 2>&1 &")


def count(guest):
    return int(guest.sh("cat /tmp/count"))


def check_goes_on(guest, at_least):
    """The guest's programs run on behind the count that they had, and nothing has gone wrong."""
    wait_until(lambda: count(guest) > at_least, 60, lambda: f"the guest's counter stands at {count(guest)}")
    guest.sh("kill -0 $(cat /tmp/stress.pid)")
    assert "fail" not in guest.sh("cat /tmp/stress")
    assert guest.kernel_complaints() == []


@pytest.mark.parametrize("machine", MACHINES, scope="class")
class TestGoingOn:
    """One guest for each machine: saved running and paused, killed, restored both ways; resized meanwhile."""

    @pytest.fixture(scope="class")
    def place(self, machine, tmp_path_factory):
        return Path(subprocess.run(["mktemp", "-d", "/var/tmp/godwit-test-XXXXXX"], check=True, capture_output=True,
                                   text=True).stdout.strip())

    @pytest.fixture(scope="class", autouse=True)
    def clean(self, place):
        yield
        subprocess.run(["rm", "-rf", place], check=True)

    @pytest.fixture(scope="class")
    def saved(self, machine, place, request):
        """Runs the guest and leaves live and paused snapshots of it; what it was like then."""
        memory, elastic, cpus, kernel = MACHINES[machine]
        pool = Path("/proc/sys/vm/nr_hugepages")
        pool.write_text(str(int(pool.read_text()) + 256))
        known = {}
        try:
            with StockGuest("--elastic", f"id=mem0,max=1G,{elastic}", "--balloon", "statistics=1",
                            "--disk", f"{image('kernel', kernel)},readonly=on",
                            "--vsock", f"cid=3,path={place}/vsock",
                            memory=memory, cpus=cpus, kernel=kernel, tools=("stress-ng",)) as guest:
                guest.wait_ready()
                known["boot"] = guest.mem_total()
                guest.resize("mem0", 256 * MIB)
                known["disk"] = guest.sh("dd if=/dev/vda bs=1M count=8 2>/dev/null | md5sum")
                guest.sh("head -c 16m /dev/urandom >/tmp/random; md5sum </tmp/random >/tmp/random.md5")
                guest.sh(STRESS)
                known["count"] = int(wait_until(lambda: guest.sh("cat /tmp/count 2>/dev/null; true"), 60))
                known["live"] = guest.cli("save", guest.name, place / "live", "--live", limit=300).stdout
                check_goes_on(guest, known["count"])
                # Half way to another size.
                guest.qmp.command("godwit-resize", id="mem0", size=640 * MIB)
                known["paused"] = guest.cli("save", guest.name, place / "paused", limit=300).stdout
                known["plugged"] = guest.elastic("mem0")["size"]
                guest.process.kill()
                guest.process.wait()
            yield known
        finally:
            pool.write_text(str(int(pool.read_text()) - 256))

    def check_same_guest(self, guest, saved):
        check_goes_on(guest, saved["count"])
        assert guest.sh("md5sum </tmp/random") == guest.sh("cat /tmp/random.md5")
        assert guest.sh("echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count=8 2>/dev/null | md5sum") == \
            saved["disk"]

    def test_both_files_verify(self, machine, saved, place):
        for name in ("live", "paused"):
            subprocess.run([GODWIT, "snapshot", "verify", place / name], check=True, stdout=subprocess.DEVNULL)

    def test_a_paused_save_goes_on(self, machine, saved, place):
        with RestoredGuest(place / "paused", "--vsock", f"cid=3,path={place}/vsock2") as guest:
            self.check_same_guest(guest, saved)
            guest.wait_size("mem0", 640 * MIB)  # what was asked for before the save still is
            wait_until(lambda: guest.mem_total() == saved["boot"] + 640 * MIB, 60, guest.mem_total)
            guest.resize("mem0", 128 * MIB)
            check_goes_on(guest, saved["count"])
            guest.reboot()
            guest.wait_size("mem0", 128 * MIB)

    def test_a_live_save_goes_on_lazily_and_is_resized_and_saved_meanwhile(self, machine, saved, place):
        with RestoredGuest(place / "live", "--lazy", "--vsock", f"cid=3,path={place}/vsock3") as guest:
            guest.qmp.command("godwit-resize", id="mem0", size=384 * MIB)
            guest.cli("save", guest.name, place / "again", "--base", place / "live", limit=300)
            guest.qmp.event("RESTORE_COMPLETED", limit=120)
            self.check_same_guest(guest, saved)
            guest.wait_size("mem0", 384 * MIB)
            guest.process.kill()
        with RestoredGuest(place / "again", "--vsock", f"cid=3,path={place}/vsock4") as guest:
            self.check_same_guest(guest, saved)
            guest.wait_size("mem0", 384 * MIB)
            guest.sh("kill $(cat /tmp/stress.pid); sleep 1; ! grep -i fail /tmp/stress")
            assert guest.power_off() == 0


HOST, GUEST, PORT = "10.99.78.1", "10.99.78.2", 5302
PATTERN = b"0123456789abcde\n" * (1 << 16)
# Each round writes a MiB to one of eight places of the disk, past the guest's own cache, and reads it back.
DISK_WORK = ("(i=0; while :; do i=$((i+1)); dd if=/tmp/pattern of=/dev/vdb bs=64k seek=$((i%8*16)) oflag=direct && "
             "dd if=/dev/vdb bs=64k count=16 skip=$((i%8*16)) iflag=direct | cmp - /tmp/pattern || echo $i >>/tmp/bad; "
             "echo $i >/tmp/disk.new; mv /tmp/disk.new /tmp/disk; done) >/dev/null 2>&1 &")
NET_WORK = f"(while :; do nc -w 5 {HOST} {PORT} </tmp/pattern; sleep 0.1; done) >/dev/null 2>&1 &"


class Receiver(threading.Thread):
    """The host's end of the guest's connections: counts those that brought everything, and keeps what was wrong."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server((HOST, PORT))
        self.whole, self.wrong = 0, []
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed: the end
                return
            with connection:
                self.take(connection)

    def take(self, connection):
        data = b""
        connection.settimeout(5)
        try:
            while piece := connection.recv(1 << 16):
                data += piece
        except OSError:  # the guest was killed, or another one goes on that knows nothing of this connection
            pass
        if not PATTERN.startswith(data):
            self.wrong.append(data)
        self.whole += data == PATTERN

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join()


@pytest.fixture
def tap():
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("there is no usable /dev/net/tun")
    name = f"gwsave{os.getpid()}"
    subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], check=True)
    subprocess.run(["ip", "address", "add", f"{HOST}/24", "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield name
    subprocess.run(["ip", "link", "delete", name], check=True)


@pytest.fixture
def receiver(tap):
    receiver = Receiver()
    yield receiver
    receiver.close()


def check_works_on(guest, receiver):
    """The guest's disk and network carry on, and everything that was read or arrived is right."""
    rounds, whole = int(guest.sh("cat /tmp/disk")), receiver.whole
    wait_until(lambda: int(guest.sh("cat /tmp/disk")) > rounds + 3, 60, lambda: guest.sh("cat /tmp/disk"))
    wait_until(lambda: receiver.whole > whole + 1, 60, lambda: f"{receiver.whole} transfers, {whole} before")
    assert receiver.wrong == []
    assert guest.sh("cat /tmp/bad 2>/dev/null; true") == ""
    assert guest.kernel_complaints() == []


@pytest.mark.parametrize("cpus", [1, 4])
def test_busy_disks_and_networks_go_on(cpus, tmp_path, tap, receiver):
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(16 * MIB)
    with StockGuest("--disk", f"{image('kernel', '6.12-cloud')},readonly=on", "--disk", disk, "--net", f"tap:{tap}",
                    memory="256M,backing=memfd", cpus=cpus) as guest:
        guest.wait_ready()
        guest.sh(f"ip address add {GUEST}/24 dev eth0 && ip link set eth0 up; "
                 f"yes 0123456789abcde | head -c {len(PATTERN)} >/tmp/pattern")
        guest.sh(DISK_WORK)
        guest.sh(NET_WORK)
        wait_until(lambda: guest.sh("cat /tmp/disk 2>/dev/null; true"), 30)
        check_works_on(guest, receiver)
        guest.cli("save", guest.name, tmp_path / "live", "--live", limit=300)
        check_works_on(guest, receiver)
        guest.cli("save", guest.name, tmp_path / "paused", limit=300)
        guest.process.kill()
        guest.process.wait()
    for name, options in (("live", ["--lazy"]), ("paused", [])):
        with RestoredGuest(tmp_path / name, *options) as guest:
            check_works_on(guest, receiver)
            guest.process.kill()
            guest.process.wait()


def test_a_lazy_restore_is_reset_meanwhile(tmp_path):
    # A kernel that panics on its way up must not get another try.
    with StockGuest("--elastic", "id=mem0,max=1G", memory="256M,backing=memfd", cmdline="panic=0") as guest:
        guest.wait_ready()
        guest.resize("mem0", 256 * MIB)
        guest.cli("save", guest.name, tmp_path / "file")
    with RestoredGuest(tmp_path / "file", "--lazy") as guest:
        guest.qmp.command("system_reset")
        guest.wait_ready()
        guest.wait_size("mem0", 256 * MIB)
        assert guest.kernel_complaints() == []


def test_each_clone_reseeds_its_random_numbers(tmp_path):
    with StockGuest(memory="256M,backing=memfd") as guest:
        guest.wait_ready()
        guest.cli("save", guest.name, tmp_path / "file")
    numbers = []
    for _ in range(2):
        with RestoredGuest(tmp_path / "file") as guest:
            wait_until(lambda: "crng reseeded due to virtual machine fork" in guest.sh("dmesg"), 60)
            numbers.append(guest.sh("head -c 16 /dev/urandom | md5sum"))
    assert numbers[0] != numbers[1]


def test_time_of_day_goes_on_and_monotonic_time_does_not(tmp_path):
    """Monotonic time is what went by while the guest ran, which the host can only bound; the clock shows the host's time."""
    with StockGuest(memory="256M,backing=memfd") as guest:
        guest.wait_ready()
        started = time.monotonic()
        uptime = float(guest.sh("cat /proc/uptime").split()[0])
        guest.cli("save", guest.name, tmp_path / "file")
        ran = time.monotonic() - started
    time.sleep(10)
    started = time.monotonic()
    with RestoredGuest(tmp_path / "file") as guest:
        later = float(guest.sh("cat /proc/uptime").split()[0])
        ran += time.monotonic() - started
        assert 0 <= later - uptime < ran + 0.5
        before = time.time()
        clock = int(guest.sh("cat /sys/class/rtc/rtc0/since_epoch"))
        assert before - 2 < clock < time.time() + 1
        assert guest.kernel_complaints() == []
