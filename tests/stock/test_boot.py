# SPDX-License-Identifier: BSD-2-Clause
"""Stock kernels start, see the machine that was asked for, and end in every way a machine can."""

import re
import time

import pytest

from support.stock import CLOUD, GENERIC, StockGuest, wait_until
from support.vm import GIB, MIB

TOOLS = ("free", "lscpu", "lspci", "numactl")
ROUNDING = 1024  # numactl and free round to KiB or MiB


def iomem(guest, name):
    """Ranges of /proc/iomem with a name, as (first, length)."""
    ranges = []
    for line in guest.sh("cat /proc/iomem").splitlines():
        match = re.match(r"\s*([0-9a-f]+)-([0-9a-f]+) : (.*)", line)
        if match and match.group(3) == name:
            ranges.append((int(match.group(1), 16), int(match.group(2), 16) - int(match.group(1), 16) + 1))
    return ranges


@pytest.mark.parametrize("cpus", [1, 4])
@pytest.mark.parametrize("kernel", CLOUD + GENERIC)
def test_a_kernel_boots_and_sees_the_machine_as_configured(kernel, cpus, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    with StockGuest("--elastic", "id=near,max=1G,size=128M,node=0", "--elastic", "id=far,max=2G,size=256M,node=2",
                    "--numa-distance", "0,1,15", "--numa-distance", "0,2,40", "--numa-distance", "1,2,30",
                    "--disk", disk, "--balloon", "--rng=id=rng0",
                    "--vsock", f"cid=3,path={tmp_path}/vsock", kernel=kernel, cpus=cpus, tools=TOOLS,
                    memory=["192M,backing=hugetlb,node=0", "128M,backing=hugetlb,node=1"]) as guest:
        guest.wait_ready()
        guest.wait_size("near", 128 * MIB)
        guest.wait_size("far", 256 * MIB)

        devices = [line.split()[2] for line in guest.sh("lspci -n").splitlines()]
        assert sorted(devices[1:]) == sorted(
            ["1af4:1042", "1af4:1043", "1af4:1044", "1af4:1045", "1af4:1053", "1af4:1058", "1af4:1058"])
        assert guest.sh("lspci -s 00:00.0").startswith("00:00.0 Host bridge")

        # What the kernel keeps for itself is not in MemTotal.
        total = int(guest.sh("free -b").splitlines()[1].split()[1])
        assert 0.75 * (704 * MIB) < total < 704 * MIB

        cpu_text = guest.sh("lscpu | cat")
        assert re.search(rf"^CPU\(s\):\s+{cpus}$", cpu_text, re.MULTILINE)
        assert re.search(r"^NUMA node\(s\):\s+3$", cpu_text, re.MULTILINE)

        ram = iomem(guest, "System RAM")
        assert 319 * MIB <= sum(length for _, length in ram) <= 320 * MIB
        assert max(first + length for first, length in ram) == 320 * MIB
        regions = {guest.elastic(ident)["memaddr"]: guest.elastic(ident)["max-size"] for ident in ("near", "far")}
        claimed = guest.sh("grep -E ' : virtio[0-9]+$' /proc/iomem")
        for address, size in regions.items():
            assert f"{address:x}-{address + size - 1:x} : virtio" in claimed

        numa = guest.sh("numactl -H")
        assert "available: 3 nodes (0-2)" in numa
        cpus_of = {int(n): len(c.split()) for n, c in re.findall(r"node (\d) cpus:([ \d]*)", numa)}
        assert cpus_of[2] == 0 and sum(cpus_of.values()) == cpus
        assert cpus == 1 or cpus_of[0] == cpus_of[1] == cpus // 2
        sizes = {int(n): int(size) for n, size in re.findall(r"node (\d) size: (\d+) MB", numa)}
        # The kernel and the initial file system, some 100 MiB, lie wherever the kernel put them.
        assert 180 <= sizes[0] <= 320 and 10 <= sizes[1] <= 128 and 240 <= sizes[2] <= 256
        assert sizes[0] + sizes[1] >= 320
        distances = [[int(word) for word in line.split(":")[1].split()] for line in numa.splitlines()[-3:]]
        assert distances == [[10, 15, 40], [15, 10, 30], [40, 30, 10]]

        assert guest.kernel_complaints() == []
        assert guest.power_off() == 0


@pytest.mark.parametrize("kernel", CLOUD)
def test_an_elf_kernel_boots_through_pvh(kernel):
    with StockGuest(kernel=kernel, elf=True) as guest:
        guest.wait_ready()
        assert 190 * MIB < guest.mem_total() < 256 * MIB
        assert guest.kernel_complaints() == []


def test_memory_lies_above_and_below_the_hole_for_pci():
    # Anonymous memory that the guest does not touch costs nothing, so the host may be smaller.
    with StockGuest("--elastic", "id=mem0,max=1G", memory="5G,backing=anon") as guest:
        guest.wait_ready()
        ram = iomem(guest, "System RAM")
        assert max(first + length for first, length in ram if first < 4 * GIB) == 3 * GIB
        assert ram[-1] == (4 * GIB, 2 * GIB)
        assert 4.8 * GIB < guest.mem_total() < 5 * GIB
        assert guest.region_resident("memory0") < GIB
        guest.resize("mem0", GIB)
        assert guest.elastic("mem0")["memaddr"] >= 6 * GIB
        assert guest.kernel_complaints() == []


@pytest.mark.parametrize("backing", ["anon", "memfd", "hugetlb-2M", "file"])
def test_boot_memory_comes_from_its_backing(backing, scratch):
    file = scratch / "ram"
    with StockGuest(memory=f"256M,backing={f'file:{file}' if backing == 'file' else backing}") as guest:
        guest.wait_ready()
        region = guest.region("memory0")
        assert region["backing"].split(":")[0] == backing
        assert 60 * MIB < region["resident"] <= 256 * MIB
        mapped = open(f"/proc/{guest.process.pid}/smaps").read()
        if backing == "hugetlb-2M":
            assert re.search(r"KernelPageSize:\s+2048 kB", mapped)
        if backing == "file":
            assert str(file) in mapped
            assert file.stat().st_size == 256 * MIB
        # All of it can be used.
        guest.sh("mount -o remount,size=100M /tmp && dd if=/dev/zero of=/tmp/x bs=1M count=90 2>/dev/null")
        assert guest.kernel_complaints() == []
        assert guest.power_off() == 0


def crash(guest):
    guest.console.send_script("echo c >/proc/sysrq-trigger")


def test_a_crashed_guest_is_kept_with_on_crash_pause():
    with StockGuest("--on-crash=pause") as guest:
        guest.wait_ready()
        crash(guest)
        assert guest.qmp.event("GUEST_PANICKED")["action"] == "pause"
        status = guest.qmp.command("query-status")
        assert status["status"] == "guest-panicked" and not status["running"]
        time.sleep(1)
        guest.check_alive()
        # The operator may start it again.
        guest.qmp.command("system_reset")
        guest.qmp.raw("cont")
        guest.wait_ready()


def test_a_crashed_guest_starts_again_with_on_crash_reset():
    with StockGuest("--on-crash=reset") as guest:
        guest.wait_ready()
        crash(guest)
        guest.qmp.event("GUEST_PANICKED")
        guest.qmp.event("RESET")
        guest.wait_ready()
        assert float(guest.sh("cut -d' ' -f1 /proc/uptime")) < 120
        assert guest.qmp.command("query-status")["status"] == "running"


def test_a_crashed_guest_ends_the_machine_with_on_crash_exit():
    with StockGuest("--on-crash=exit") as guest:
        guest.wait_ready()
        qmp = guest.qmp
        crash(guest)
        qmp.event("GUEST_PANICKED")
        assert guest.wait() == 1


class TestRunningGuest:
    """One guest, looked at from several sides."""

    @pytest.fixture(scope="class")
    def guest(self):
        with StockGuest(cmdline="console=ttyS0") as guest:
            yield guest.wait_ready()

    def test_the_clock_is_right(self, guest):
        ahead = int(guest.sh("date -u +%s")) - time.time()
        assert -20 < ahead < 5
        assert guest.sh("cat /sys/class/rtc/rtc0/name").startswith("rtc_cmos")
        ahead = int(guest.sh("cat /sys/class/rtc/rtc0/since_epoch")) - time.time()
        assert -20 < ahead < 5

    def test_the_serial_line_speaks(self, guest):
        guest.sh("echo spoken by the guest >/dev/ttyS0")
        guest.serial.expect("^spoken by the guest")

    def test_the_serial_line_listens(self, guest):
        guest.console.send_script("exec 3</dev/ttyS0; echo listening; read -r line <&3; echo heard=$line")
        guest.console.expect("^listening")
        guest.serial.send("said by the host\n")
        guest.console.expect("^heard=said by the host")
        guest.console.expect(r"^godwit-done: 0\r?\n")

    def test_the_serial_line_carries_much_without_loss(self, guest):
        guest.console.send_script("i=0; while [ $i -lt 300 ]; do echo line-$i-of-many; i=$((i+1)); done >/dev/ttyS0")
        for number in (0, 150, 299):
            guest.serial.expect(f"^line-{number}-of-many")
        numbers = re.findall(r"^line-(\d+)-of-many", guest.serial.heard, re.MULTILINE)
        assert numbers == [str(number) for number in range(300)]
        guest.console.expect(r"^godwit-done: 0\r?\n")

    def test_the_random_generator_gives_random_numbers(self, guest):
        assert guest.sh("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
        numbers = [guest.sh("head -c 16 /dev/hwrng | md5sum") for _ in range(2)]
        assert numbers[0] != numbers[1]

    def test_reboot_starts_the_kernel_again(self, guest):
        before = guest.sh("cat /proc/sys/kernel/random/boot_id")
        guest.reboot()
        assert guest.sh("cat /proc/sys/kernel/random/boot_id") != before
        assert guest.qmp.command("query-status")["status"] == "running"

    def test_the_power_button_reaches_the_guest(self, guest):
        # The shell itself opens the button, so that the press cannot come before that.
        guest.sh("until [ -e /dev/input/event0 ]; do sleep 0.1; done; { head -c 16 <&3 >/tmp/pressed & } 3</dev/input/event0")
        guest.qmp.command("system_powerdown")
        guest.qmp.event("POWERDOWN")
        wait_until(lambda: guest.sh("stat -c %s /tmp/pressed") == "16", 60, lambda: "no key was pressed")

    def test_power_off_ends_the_machine(self, guest):
        qmp = guest.qmp
        guest.console.send_script("poweroff -f")
        assert qmp.event("SHUTDOWN")["reason"] == "guest-shutdown"
        assert guest.wait() == 0
