# SPDX-License-Identifier: BSD-2-Clause
"""libgodwit-rdma, as others use it: installed, found by pkg-config, and called through its header alone."""

import os
import re
import subprocess

from support.vm import BUILD, REPOSITORY

HEADER = REPOSITORY / "include/godwit/rdma.h"
LIBRARY = BUILD / "src/rdma/libgodwit-rdma.so.1"


def test_only_what_the_header_declares_is_visible():
    said = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    visible = {line.split()[2].split("@")[0] for line in said.splitlines() if line.split()[1] == "T"}
    header = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    assert visible == set(re.findall(r"\b(godwit_rdma_\w+)\(", header))


def test_header_is_enough_for_c_and_cxx(tmp_path):
    for name, compiler, standard in [("one.c", "cc", "-std=c11"), ("one.cpp", "c++", "-std=c++17")]:
        if subprocess.run(["which", compiler], capture_output=True, check=False).returncode:
            continue
        (tmp_path / name).write_text("#include <godwit/rdma.h>\n")
        result = subprocess.run([compiler, standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only",
                                 f"-I{REPOSITORY}/include", tmp_path / name], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_needs_nothing_but_the_c_library():
    said = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"NEEDED.*\[(.*)\]", said) == ["libc.so.6"]


def test_example_of_the_documentation_runs(tmp_path):
    destination = tmp_path / "installed"
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet"], check=True, capture_output=True,
                   env=dict(os.environ, DESTDIR=str(destination)))
    description, = destination.rglob("godwit-rdma.pc")
    said = subprocess.run(["pkg-config", "--cflags", "--libs", "godwit-rdma"], check=True, capture_output=True,
                          text=True, env=dict(os.environ, PKG_CONFIG_PATH=str(description.parent),
                                              PKG_CONFIG_SYSROOT_DIR=str(destination))).stdout
    text = (REPOSITORY / "docs/libraries.md").read_text().split("\n## libgodwit-rdma\n")[1].split("\n## ")[0]
    source, = re.findall(r"^```c\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "reach.c").write_text(source)
    command, = re.findall(r"^cc (.*) \$\(pkg-config --cflags --libs godwit-rdma\)$", text, re.MULTILINE)
    subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", *command.split(), *said.split()], cwd=tmp_path,
                   check=True)
    result = subprocess.run([tmp_path / "reach"], env=dict(os.environ, LD_LIBRARY_PATH=str(description.parents[1])),
                            capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "written: hello\n", "")
