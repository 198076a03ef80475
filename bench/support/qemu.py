# SPDX-License-Identifier: BSD-2-Clause
"""QEMU as the machine beside godwit: the same guest, the same ends, driven through its QMP.

QEMU gets the best of its configurations that can do the same things, with the same virtio devices that godwit has.
"""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

from support.vm import REPOSITORY, Machine

CACHE = Path(os.environ.get("GODWIT_CACHE", REPOSITORY / ".cache"))
UNPACKED = CACHE / "qemu-10"

# Of QEMU's x86 machines `pc` and `q35` can have virtio-mem. With everything switched off that is not needed, and with
# the small firmware, `pc` gives the fewest exits until user space: 7629, and 10929 as it comes; q35 24324 (6.12-cloud).
# The start of godwit has 6200 to 6700.
ELASTIC_MACHINE = "pc,vmport=off,smbus=off,i8042=off,hpet=off"
# Cannot have virtio-mem; starts with the fewest exits of all: 6372, 1437 of them to user space.
SMALL_MACHINE = "microvm,pcie=on,rtc=on,pit=off,pic=off,isa-serial=off"


class Missing(Exception):
    """There is no QEMU on this machine."""


@functools.lru_cache(maxsize=None)
def program():
    """The best QEMU there is, as (words of its command line, environment)."""
    binary = UNPACKED / "usr/bin/qemu-system-x86_64"
    if binary.exists():
        share = UNPACKED / "usr/share"
        return ((str(binary), "-L", f"{share}/qemu", "-L", f"{share}/seabios"),
                {"QEMU_MODULE_DIR": f"{UNPACKED}/usr/lib/x86_64-linux-gnu/qemu"})
    binary = shutil.which("qemu-system-x86_64")
    if not binary:
        raise Missing("there is no qemu-system-x86_64 on this machine: run tools/setup")
    return (binary,), {}


@functools.lru_cache(maxsize=None)
def version():
    words, environment = program()
    text = subprocess.run([*words, "--version"], check=True, stdout=subprocess.PIPE, text=True,
                          env=dict(os.environ, **environment)).stdout
    return re.search(r"version (\S+)", text).group(1)


def memory_object(ident, size, backing, reserve=True):
    """-object for memory of a backing by godwit's name."""
    options = {"id": ident, "size": size}
    if backing == "anon":
        kind = "memory-backend-ram"
    else:
        kind = "memory-backend-memfd"
        options["share"] = "on"
        if backing.startswith("hugetlb"):
            options.update(hugetlb="on", hugetlbsize="1G" if backing == "hugetlb-1G" else "2M")
    if not reserve:
        options["reserve"] = "off"
    return ["-object", kind + "".join(f",{name}={value}" for name, value in options.items())]


class Qemu(Machine):
    """A machine of QEMU with the same ends as support.vm.Machine.

    machine  the value of -machine; KVM and the boot memory are added
    memory   bytes of boot memory, and its backing
    elastic  (id, maximum, backing, further options of the virtio-mem device) of each elastic device
    """

    def __init__(self, *arguments, kernel, initrd, cmdline, machine=ELASTIC_MACHINE, cpus=1, memory,
                 backing="memfd", elastic=(), name=None):
        words, environment = program()
        self._prepare(name, environment)
        maximum = memory + sum(device[1] for device in elastic)
        command = [*words, "-nodefaults", "-no-user-config", "-display", "none", "-cpu", "host", "-smp", str(cpus),
                   "-machine", f"{machine},accel=kvm,memory-backend=ram", *memory_object("ram", memory, backing),
                   "-m", f"{memory >> 20}M" + (f",slots=1,maxmem={maximum >> 20}M" if elastic else ""),
                   "-kernel", str(kernel), "-initrd", str(initrd), "-append", cmdline,
                   "-qmp", f"unix:{self.directory}/{self.name}.sock,server=on,wait=off",
                   "-device", "virtio-serial-pci,disable-legacy=on,max_ports=1,vectors=4",
                   "-chardev", f"socket,id=console,path={self.directory}/console,server=on,wait=off",
                   "-device", "virtconsole,chardev=console", "-device", "virtio-rng-pci,disable-legacy=on"]
        if machine == ELASTIC_MACHINE:
            command += ["-bios", "qboot.rom"]
        for ident, size, kind, options in elastic:
            # Without reserve=off QEMU takes the whole maximum from a pool of huge pages at the start.
            command += memory_object(f"memory-{ident}", size, kind, reserve=False)
            command += ["-device", f"virtio-mem-pci,id={ident},memdev=memory-{ident},requested-size=0,block-size=2M"
                        + "".join(f",{option}" for option in options)]
        self._launch([*command, *arguments])

    def request(self, ident, size):
        """Asks for a size of an elastic device and does not wait."""
        return self.qmp.command("qom-set", path=f"/machine/peripheral/{ident}", property="requested-size", value=size)
