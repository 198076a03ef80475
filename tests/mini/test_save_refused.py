# SPDX-License-Identifier: BSD-2-Clause
"""What cannot be saved or restored is refused with nothing changed."""

import os
import shutil

import pytest

from mini_machine import (ENDLESS, GUESTS, LIMIT, MAGIC, Original, Restored, RunDirectory, goes_on, no_partial,
                          refused, restore_refused)
from support.vm import KIB


@pytest.mark.parametrize("target, message", [
    ("missing/snap", "cannot use the folder"), ("", "is not a plain file: give another name")])
def test_impossible_target_is_refused(counting, tmp_path, target, message):
    assert message in refused(counting.save(tmp_path / target, check=False))
    assert message in counting.job()["error"]
    no_partial(tmp_path)
    counting.wait_lines(counting.text().count("\n") + 1)


def test_memory_in_a_file_on_a_disk_is_not_saved_live(tmp_path):
    reason = ("memory 'memory0' is a file on a disk, whose pages the host cannot watch: back it by memfd, hugetlb, "
              "anon or a file on tmpfs")
    with Original(tmp_path, "counting", memory=f"64M,backing=file:{tmp_path}/ram",
                  cmdline=f"pages=64 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        assert refused(vm.save(tmp_path / "snap", "--live", check=False)) == f"godwit save: live: {reason}"
        vm.save(tmp_path / "snap")
        vm.kill()
        assert restore_refused(RunDirectory(tmp_path), tmp_path / "snap", "--lazy") == f"godwit restore: {reason}"


def flip(file, offset):
    with open(file, "r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("options", [(), ("--lazy",)])
def test_cut_off_file_is_refused(saved, options):
    vm, file = saved
    size = file.stat().st_size
    for length in (size - 1, size // 2, 100, 0):
        os.truncate(file, length)
        assert str(file) in restore_refused(vm, file, *options)


@pytest.mark.parametrize("options", [(), ("--lazy",)])
def test_damaged_structure_is_refused(saved, options):
    vm, file = saved
    where = file.read_bytes().index(b"godwit/config") + 40
    flip(file, where)
    assert str(file) in restore_refused(vm, file, *options)


def test_damaged_page_is_refused_before_the_guest_runs(saved):
    vm, file = saved
    content = file.read_bytes()
    where = content.index(MAGIC.to_bytes(8, "little"), 1 << 20)
    flip(file, where + 16)
    line = restore_refused(vm, file)
    assert "memory0" in line and f"{where & ~0xfff:#x}"[:4] in line, line
    assert "checksum" in line


def test_damaged_page_ends_a_lazily_restored_machine(saved, tmp_path):
    vm, file = saved
    where = file.read_bytes().index(MAGIC.to_bytes(8, "little"), 1 << 20)
    flip(file, where + 16)
    with Restored(tmp_path, file, "--lazy") as copy:
        assert copy.wait(LIMIT) == 1
        assert "memory that the guest needs cannot be brought, the VM ends: " in copy.stderr()
        assert "memory0" in copy.stderr() and "checksum" in copy.stderr()
        assert "FAIL" not in copy.text()


def test_missing_kernel_is_told_by_name(tmp_path):
    kernel = tmp_path / "kernel.elf"
    shutil.copy(GUESTS / "counting.elf", kernel)
    with Original(tmp_path, "counting", "--kernel", kernel, cmdline=f"pages=64 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        vm.save(tmp_path / "snap")
        kernel.unlink()
        line = restore_refused(vm, tmp_path / "snap")
        assert line == f"godwit restore: cannot open the kernel {kernel}: No such file or directory"
    with Restored(tmp_path, tmp_path / "snap", "--kernel", GUESTS / "counting.elf") as copy:
        copy.wait_lines(2)


def test_disk_that_is_given_anew_keeps_its_id(tmp_path):
    """The guest's state hangs on it."""
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(bytes(64 * KIB))
    with Original(tmp_path, "counting", "--disk", f"{tmp_path}/old,id=d0", cmdline=f"pages=64 steps={ENDLESS}") as vm:
        vm.wait_lines(2)
        vm.save(tmp_path / "snap")
        with Restored(tmp_path, tmp_path / "snap", "--name", "copy", "--disk", tmp_path / "new") as copy:  # the old one is locked
            goes_on(copy)
            disk, = [device for device in copy.cli("status", "copy").stdout.splitlines() if "virtio-blk" in device]
            assert disk.split()[0] == "d0" or " d0 " in disk


def test_name_in_use_is_refused(saved):
    vm, file = saved
    result = vm.cli("restore", file, "--serial", "null", check=False)
    assert f"a VM named '{vm.name}' is running" in refused(result)


@pytest.mark.parametrize("arguments, message", [
    (("--disk", "x.img"), "--disk: the snapshot has 0 of them, and this is one more"),
    (("--net", "tap:t0,id=net7"), "--net: the snapshot has none with id=net7"),
    (("--lazy", "--direct"), "--direct is for a restore that is not --lazy: leave one out"),
    (("--direct", "--cached"), "--direct and --cached exclude each other: leave one out"),
    (("--channels", "17"), "--channels: 17 is not 1 to 16"),
])
def test_impossible_options_are_refused(saved, arguments, message):
    vm, file = saved
    result = vm.cli("restore", file, *arguments, check=False)
    assert result.returncode == 2 and message in result.stderr
