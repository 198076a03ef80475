# SPDX-License-Identifier: BSD-2-Clause
"""tools/setup: how it derives the backports suite and the next release from a machine's own package sources."""

import pathlib
import subprocess

import pytest

SETUP = pathlib.Path(__file__).resolve().parents[2] / "tools/setup"


@pytest.fixture
def derive(tmp_path):
    """A function: writes the given files into an apt folder; returns what is derived (base and backports, or those named)."""
    def run(files, names=("base", "backports")):
        apt, out = tmp_path / "apt", tmp_path / "out"
        (apt / "sources.list.d").mkdir(parents=True)
        out.mkdir()
        for name, text in files.items():
            (apt / name).write_text(text)
        subprocess.run(["bash", "-c", f"source {SETUP}; derive_sources bookworm {out} {apt}"], check=True)
        return [(out / f"{name}.sources").read_text() for name in names]
    return run


def test_deb822_sources_keep_their_key_and_mirror(derive):
    base, backports = derive({"sources.list.d/debian.sources":
        "Types: deb deb-src\n# a note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main\nSigned-By: /usr/share/keyrings/key.gpg\n"})
    assert backports == ("Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\n"
                         "Components: main\nSigned-By: /usr/share/keyrings/key.gpg\n\n")
    assert "Suites: bookworm bookworm-updates\n" in base


def test_one_line_sources_are_understood(derive):
    base, backports = derive({"sources.list":
        "# deb http://old.example/debian buster main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # a note\n"
        "deb-src http://mirror.example/debian bookworm main\n"
        "deb http://mirror.example/security bookworm-security main\n"})
    assert backports == ("Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\n"
                         "Components: main contrib\nSigned-By: /k.gpg\n\n")
    assert base.count("Types: deb\n") == 2 and "bookworm-security" in base


def test_sources_of_others_and_disabled_ones_are_left_out(derive):
    base, backports = derive({
        "sources.list.d/other.sources": "Types: deb\nURIs: http://other.example/x\nSuites: nodistro\nComponents: main\n",
        "sources.list.d/off.sources":
            "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n",
        "sources.list.d/security.sources":
            "Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n"})
    assert "example/x" not in base and "off.example" not in base
    assert "bookworm-security" in base
    assert backports == ""


def test_backports_that_are_configured_already_are_not_named_twice(derive):
    base, backports = derive({"sources.list":
        "deb http://mirror.example/debian bookworm main\n"
        "deb http://mirror.example/debian bookworm-backports main\n"})
    assert "backports" not in base
    assert backports.count("bookworm-backports") == 1


def test_several_stanzas_in_a_file_are_told_apart(derive):
    base, backports = derive({"sources.list.d/debian.sources":
        "Types: deb\nURIs: http://a.example/debian\nSuites: stable\nComponents: main\n"
        "\nTypes: deb\nURIs: http://b.example/security\nSuites: stable-security\nComponents: main"})
    assert base.count("Types: deb\n") == 2
    assert "a.example" in backports and "b.example" not in backports


def test_next_release_is_had_from_the_same_mirror(derive):
    (following,) = derive({"sources.list":
        "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main\n"
        "deb http://mirror.example/security bookworm-security main\n"}, names=["next"])
    assert following == ("Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"
                         "Signed-By: /k.gpg\n\n")
