# SPDX-License-Identifier: BSD-2-Clause
"""What `make install` puts where: the programs, their manual and the completion, the libraries, and nothing else
(docs/libraries.md)."""

import os
import subprocess

from support.program import commands
from support.vm import BUILD


def test_program_manual_and_completion_are_installed(tmp_path):
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet"], check=True, capture_output=True,
                   env=dict(os.environ, DESTDIR=str(tmp_path)))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    programs = sorted(path for path in files if path.parent.name == "bin")
    assert [path.name for path in programs] == ["godwit", "godwit-blk"]
    for path in programs:
        said = subprocess.run([path, "--version"], capture_output=True, check=True, text=True).stdout
        assert said.startswith(f"{path.name} ")
    pages = {f"godwit-{name.replace(' ', '-')}.1" for name in commands()} | {"godwit.1", "godwit-blk.1"}
    assert {path.name for path in files if path.parent.name == "man1"} == pages
    completion, = [path for path in files if path.parent.name == "completions"]
    assert completion.name == "godwit"
    library = {path.name for path in files if path.suffix in (".h", ".pc") or ".so." in path.name}
    assert {name for name in library if not name.endswith(".so.1")} == {
        "rdma.h", "godwit-rdma.pc", "libgodwit-rdma.so.1.0.0",
        "snapshot.h", "godwit-snapshot.pc", "libgodwit-snapshot.so.1.0.0",
        "vhost_user.h", "godwit-vhost-user.pc", "libgodwit-vhost-user.so.1.0.0"}
    assert len(files) == len(pages) + 3 + len(library) + 3  # .so, links
