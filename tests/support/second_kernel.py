# SPDX-License-Identifier: BSD-2-Clause
"""A second kernel for kexec and for crash dumps, in a guest of support/stock.py with tools=("kexec",).

Its bzImage and its initial file system are two read-only disks, the first ones of the guest: nothing has to be copied or built.
"""

from pathlib import Path

from support.stock import image

# The crash kernel, its file system and what unpacks it; 6.1 and 6.12 cloud kernels need about 60 MiB.
CRASH_MEMORY = "crashkernel=96M"


def disks(kernel):
    return ["--disk", f"{image('kernel', kernel)},readonly=on", "--disk", f"{image('initramfs', kernel)},readonly=on"]


def load(guest, kernel, cmdline, crash=False, classic=False):
    """Puts the second kernel in place. classic: by kexec-tools' own loader, else by the kernel's."""
    sizes = [Path(image(what, kernel)).stat().st_size for what in ("kernel", "initramfs")]
    call = f"kexec {'' if classic else '-s'} {'-p' if crash else '-l'} /tmp/kernel --initrd=/tmp/initramfs"
    return guest.sh(f"head -c {sizes[0]} /dev/vda >/tmp/kernel && head -c {sizes[1]} /dev/vdb >/tmp/initramfs && "
                    f"{call} --command-line='quiet panic=-1 {cmdline}' && rm /tmp/kernel /tmp/initramfs")


def start(guest):
    """Goes over to the second kernel and waits for its shell."""
    guest.console.send_script("kexec -e")
    return guest.wait_ready()


def crash(guest):
    """Crashes the first kernel and waits for the crash kernel's shell."""
    guest.console.send_script("echo c >/proc/sysrq-trigger")
    return guest.wait_ready()
