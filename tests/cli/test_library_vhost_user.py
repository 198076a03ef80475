# SPDX-License-Identifier: BSD-2-Clause
"""libgodwit-vhost-user, as others use it: installed, found by pkg-config, and called through its header alone."""

import os
import re
import socket
import struct
import subprocess
import threading

from support.vm import BUILD, REPOSITORY

HEADER = REPOSITORY / "include/godwit/vhost_user.h"
LIBRARY = BUILD / "src/vhost_user/libgodwit-vhost-user.so.1"
PROTOCOL_FEATURES, LOG_ALL = 1 << 30, 1 << 26
MQ, CONFIGURE_MEM_SLOTS, UNKNOWN = 1 << 0, 1 << 15, 1 << 40


def back_end(listener, answers, asked):
    """Answers numbers to requests, and notes what was told."""
    connection, _ = listener.accept()
    with connection:
        while header := connection.recv(12, socket.MSG_WAITALL):
            request, flags, size = struct.unpack("<III", header)
            payload = connection.recv(size, socket.MSG_WAITALL) if size else b""
            assert flags & 3 == 1
            asked.append((request, payload))
            if request in answers:
                connection.sendall(struct.pack("<IIIQ", request, 5, 8, answers[request]))


def test_only_what_the_header_declares_is_visible():
    said = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    visible = {line.split()[2].split("@")[0] for line in said.splitlines() if line.split()[1] == "T"}
    declared = set(re.findall(r"\b(godwit_vhost_user_\w+)\(", re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)))
    assert visible == declared


def test_header_is_enough_for_c_and_cxx(tmp_path):
    for name, compiler, standard in [("one.c", "cc", "-std=c11"), ("one.cpp", "c++", "-std=c++17")]:
        if subprocess.run(["which", compiler], capture_output=True, check=False).returncode:
            continue
        (tmp_path / name).write_text("#include <godwit/vhost_user.h>\n")
        result = subprocess.run([compiler, standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only",
                                 f"-I{REPOSITORY}/include", tmp_path / name], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_example_of_the_documentation_runs(tmp_path):
    destination = tmp_path / "installed"
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet"], check=True, capture_output=True,
                   env=dict(os.environ, DESTDIR=str(destination)))
    description, = destination.rglob("godwit-vhost-user.pc")
    said = subprocess.run(["pkg-config", "--cflags", "--libs", "godwit-vhost-user"], check=True, capture_output=True,
                          text=True, env=dict(os.environ, PKG_CONFIG_PATH=str(description.parent),
                                              PKG_CONFIG_SYSROOT_DIR=str(destination))).stdout
    text = (REPOSITORY / "docs/libraries.md").read_text().split("\n## libgodwit-vhost-user\n")[1].split("\n## ")[0]
    source, = re.findall(r"^```c\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "ask.c").write_text(source)
    command, = re.findall(r"^cc (.*) \$\(pkg-config --cflags --libs godwit-vhost-user\)$", text, re.MULTILINE)
    subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", *command.split(), *said.split()], cwd=tmp_path,
                   check=True)
    environment = dict(os.environ, LD_LIBRARY_PATH=str(description.parents[1]))
    asked = []
    answers = {1: PROTOCOL_FEATURES | LOG_ALL | 1, 15: MQ | CONFIGURE_MEM_SLOTS | UNKNOWN, 17: 3, 36: 509}
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=back_end, args=(listener, answers, asked), daemon=True)
        thread.start()
        result = subprocess.run([tmp_path / "ask", path], env=environment, capture_output=True, text=True, check=False)
        thread.join()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "features 0x4000001, protocol features 0x8001, 3 queues, 509 pieces of memory\n"
    assert (16, struct.pack("<Q", MQ | CONFIGURE_MEM_SLOTS)) in asked  # what nobody knows is not taken
    result = subprocess.run([tmp_path / "ask", tmp_path / "none"], env=environment, capture_output=True, text=True,
                            check=False)
    assert (result.returncode, result.stderr) == (1, f"{tmp_path}/none: cannot connect: No such file or directory\n")
