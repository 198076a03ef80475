# SPDX-License-Identifier: BSD-2-Clause
"""godwit as one of the machines that are compared; bench.support.qemu is the other side of the same interface."""

from support.vm import Machine


class Godwit(Machine):
    """memory and elastic are those of bench.support.qemu.Qemu; options for QEMU alone are left out."""

    def __init__(self, *arguments, kernel, initrd, cmdline, machine=None, cpus=1, memory, backing="memfd", elastic=(),
                 name=None):
        words = ["--kernel", kernel, "--initrd", initrd, "--cmdline", cmdline, "--cpus", cpus,
                 "--memory", f"{memory},backing={backing}"]
        for ident, size, kind, _ in elastic:
            words += ["--elastic", f"id={ident},max={size},block=2M,backing={kind}"]
        super().__init__(*words, *arguments, name=name, serial=False)
