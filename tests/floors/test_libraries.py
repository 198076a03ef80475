# SPDX-License-Identifier: BSD-2-Clause
"""docs/libraries.md: what it says to include and to link is enough for a program of one's own."""

import re
import subprocess

import pytest

import check_floors
from support.vm import BUILD, REPOSITORY

SYSTEM = ["-ljansson", "-luring", "-lxxhash", "-lpthread"]
CLIENT = r"""
#include <stdio.h>
#include "control/qmp_client.h"

int main(int argc, char **argv)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	AUTO_ERROR struct error *error = qmp_client_connect(argv[1], 1000000000, &client);

	puts(error ? error_message(error) : "connected");
	return 0;
}
"""


def table():
    """Each row's headers and libraries."""
    text = (REPOSITORY / "docs/libraries.md").read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")][1:]
    for _, use, link in rows:
        headers = [name for name in re.findall(r"`([\w/]+\.h)`", use) if (REPOSITORY / "src" / name).exists()]
        yield headers, re.findall(r"lib\w+|\b(?:" + "|".join(check_floors.FLOORS) + r")\b(?!')", link)


def archives(libraries):
    found = []
    for library in libraries:
        if library.startswith("lib"):
            found += [str(path) for path in (BUILD / "src").glob(f"*/{library}.a")]
        else:
            found += [str(BUILD / "src" / library / f"lib{library}.a")]
    return found


def compile_program(source, libraries, directory):
    (directory / "program.c").write_text(source)
    command = ["cc", "-std=gnu17", "-D_GNU_SOURCE", f"-I{REPOSITORY}/src", "-o", directory / "program",
               directory / "program.c", *archives(libraries), *SYSTEM]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return directory / "program"


@pytest.mark.parametrize("headers, libraries", [row for row in table() if row[0]], ids=lambda part: "+".join(part))
def test_headers_and_libraries_of_the_table_are_enough(headers, libraries, tmp_path):
    """Every function that the headers declare is there to be linked."""
    text = "\n".join((REPOSITORY / "src" / name).read_text() for name in headers)
    functions = re.findall(r"^(?!static|typedef|#)[a-z][\w \*]*?\b\*?(\w+)\([^;{]*\)(?: MUST_CHECK)?;", text, re.MULTILINE)
    assert functions
    includes = "".join(f'#include "{name}"\n' for name in headers)
    uses = "".join(f"\tuse((void *){name});\n" for name in functions)
    source = f"{includes}static void use(void *what)\n{{\n\t__asm__ volatile(\"\" : : \"r\"(what));\n}}\n\n" \
             f"int main(void)\n{{\n{uses}\treturn 0;\n}}\n"
    compile_program(source, libraries, tmp_path)


def test_a_program_speaks_to_the_control_socket(tmp_path):
    libraries, = [libraries for headers, libraries in table() if "control/qmp_client.h" in headers]
    program = compile_program(CLIENT, libraries, tmp_path)
    said = subprocess.run([program, tmp_path / "none.sock"], capture_output=True, text=True, check=True).stdout
    assert said == f"cannot connect to {tmp_path}/none.sock: No such file or directory\n"
