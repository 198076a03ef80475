# SPDX-License-Identifier: BSD-2-Clause
"""tools/guest-image and tools/extract-vmlinux: what guests boot is complete, and made once."""

import os
import pathlib
import struct
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools/guest-image"
CACHE = pathlib.Path(os.environ.get("GODWIT_CACHE") or REPOSITORY / ".cache")
KERNELS = [name for name in ("6.12-cloud", "6.12-generic", "6.1-cloud", "6.1-generic")
           if (CACHE / "kernels" / name / "vmlinuz").exists()]

pytestmark = pytest.mark.skipif(not KERNELS, reason="no unpacked kernels: run tools/setup")


def image(*arguments):
    result = subprocess.run([TOOL, *arguments], capture_output=True, text=True, check=True)
    return pathlib.Path(result.stdout.strip())


def files_of(initramfs):
    """The names in a compressed archive."""
    plain = subprocess.run(["lz4", "-dc", initramfs], capture_output=True, check=True).stdout
    listing = subprocess.run(["cpio", "--quiet", "-t"], input=plain, capture_output=True, check=True).stdout
    return set(listing.decode().splitlines())


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_initramfs_has_the_drivers_that_its_kernel_has_as_modules(kernel):
    files = files_of(image("initramfs", kernel))
    assert {"init", "usr/bin/busybox", "modules/order"} <= files
    assert {f"modules/{name}.ko" for name in ("virtio_mem", "virtio_blk", "virtio_net", "virtio_balloon")} <= files
    # Built into 6.12, modules of 6.1.
    assert ("modules/virtio_pci.ko" in files) == kernel.startswith("6.1-")


def test_the_same_request_gives_the_same_file_and_another_one_another():
    first, again = image("initramfs", KERNELS[0]), image("initramfs", KERNELS[0])
    assert first == again
    with_tool = image("initramfs", KERNELS[0], "--with", "lspci")
    assert with_tool != first
    assert {"usr/bin/lspci", "usr/lib64/ld-linux-x86-64.so.2"} <= {
        name.replace("./", "") for name in files_of(with_tool)}


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name.endswith("-generic")])
def test_an_initramfs_for_rdma_has_the_driver_and_what_uses_it(kernel):
    if not (CACHE / "headers" / kernel / "build").exists():
        pytest.skip(f"no headers of kernel {kernel}: run tools/setup")
    names = {name.removeprefix("./") for name in files_of(image("initramfs", kernel, "--rdma"))}
    assert {"modules/virtio_rdma.ko", "modules/ib_uverbs.ko", "modules/rdma_cm.ko", "etc/libibverbs.d/rxe.driver",
            "usr/bin/ibv_devices", "usr/bin/ibv_rc_pingpong"} <= names
    assert any(name.startswith("usr/lib/x86_64-linux-gnu/libibverbs/librxe-") for name in names)


def test_only_an_initramfs_takes_rdma():
    result = subprocess.run([TOOL, "kernel", KERNELS[0], "--rdma"], capture_output=True, text=True)
    assert result.returncode == 2 and "--rdma" in result.stderr


def test_a_disk_image_holds_the_tools_and_a_kernel_for_kexec(tmp_path):
    disk = image("rootfs", KERNELS[0], tmp_path / "disk", "512M")
    assert disk.stat().st_size == 512 << 20
    listing = subprocess.run(["/sbin/debugfs", "-R", "ls -p /usr/bin", disk], capture_output=True, text=True).stdout
    for tool in ("fio", "free", "iperf3", "kexec", "lscpu", "lsmem", "lspci", "numactl", "stress-ng", "busybox"):
        assert f"/{tool}/" in listing, tool
    listing = subprocess.run(["/sbin/debugfs", "-R", "ls -p /boot", disk], capture_output=True, text=True).stdout
    assert "/vmlinuz/" in listing and "/initramfs/" in listing
    assert subprocess.run(["/sbin/e2fsck", "-fn", disk], capture_output=True).returncode == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_elf_kernel_is_extracted_whole(kernel):
    with open(image("vmlinux", kernel), "rb") as file:
        content = file.read()
    assert content[:4] == b"\x7fELF"
    # The section header table is the last thing in a kernel's file.
    offset, = struct.unpack_from("<Q", content, 0x28)
    size, count = struct.unpack_from("<HH", content, 0x3A)
    assert offset + size * count <= len(content)


def test_what_is_no_kernel_is_refused(tmp_path):
    (tmp_path / "no-kernel").write_bytes(bytes(4096))
    result = subprocess.run([REPOSITORY / "tools/extract-vmlinux", tmp_path / "no-kernel", tmp_path / "out"],
                            capture_output=True, text=True)
    assert result.returncode == 1
    assert "no bzImage" in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_kernel_is_named():
    result = subprocess.run([TOOL, "initramfs", "5.4-cloud"], capture_output=True, text=True)
    assert result.returncode == 1
    assert "5.4-cloud" in result.stderr
