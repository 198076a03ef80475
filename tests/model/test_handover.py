# SPDX-License-Identifier: BSD-2-Clause
"""The handover's model: what is promised holds in every run of it, and the checker notices when a rule is broken."""

import re
import shutil
import subprocess

import pytest

from support.vm import BUILD, REPOSITORY

MODEL = REPOSITORY / "tests/model/handover.pml"
TEXT = MODEL.read_text()
PROPERTIES = re.findall(r"^ltl (\w+)", TEXT, re.MULTILINE)

# Each broken rule with promises that it breaks. It may break others too.
BROKEN = {
    "RESUMES_AFTER_GO": ["never_twice"],
    "RUNS_BEFORE_GO": ["never_twice", "go_comes_first"],
    "REJECTS_AND_RUNS": ["never_twice"],
    "OLD_CONNECTION_IS_READ": ["never_twice"],
    "OPERATOR_TRUSTS_LOADED": ["never_twice"],
    "OPERATOR_ACTS_ON_AN_OLD_LOOK": ["never_twice"],
    "OPERATOR_TRUSTS_SILENCE": ["never_forks"],
    "RESUMES_OLD_COPY": ["never_forks"],
    "FORGETS_PAGES": ["copy_lives"],
    "SAYS_WHOLE_TOO_EARLY": ["copy_lives"],
    "DISCARDS_AT_GO": ["destination_may_die"],
    "DISCARDS_WHOLE_COPY": ["source_may_die"],
    "TELLS_BEFORE_RESUMING": ["source_may_die"],
    "WAITS_BEFORE_GO": ["window_is_small", "source_resumes"],
    "WAITS_WHEN_REJECTED": ["rejected_resumes"],
    "SOURCE_OBEYS_NOBODY": ["operator_settles_source"],
    "DESTINATION_OBEYS_NOBODY": ["operator_settles_destination"],
    "ANSWERS_NOTHING": ["recover_settles"],
    "IS_SILENT_WHEN_ASKED": ["nothing_is_left"],
    "ASKS_NOT": ["nothing_is_refused"],
}


class Checker:
    """The model, compiled with some definitions."""

    def __init__(self, directory, *definitions, options=()):
        if not shutil.which("spin"):
            pytest.skip("spin is not installed: tools/setup does that")
        self.directory = directory
        self.run(["spin", "-a", *[f"-D{name}" for name in definitions], MODEL])
        # Most of these run for a moment only: compiling is what takes time.
        self.run(["cc", "-O0", "-w", "-DMEMLIM=512", *options, "-o", "pan", "pan.c"])

    def run(self, command):
        result = subprocess.run([str(part) for part in command], cwd=self.directory, stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=60)
        assert result.returncode == 0 and "rror: " not in result.stdout, result.stdout[-2000:] + result.stderr[-2000:]
        return result.stdout

    def check(self, name):
        """Checks one property; what the checker printed, and whether the property holds."""
        output = self.run(["./pan", "-a", "-m100000", "-w20", "-N", name])
        # Only a search that was neither cut off nor out of memory says anything.
        assert f"never claim         \t+ ({name})" in output, output
        for sign in ("max search depth too small", "out of memory", "Search not completed"):
            assert sign not in output or "errors: 0" not in output, output
        return output, "errors: 0" in output

    def story(self):
        """The run that broke a promise: the rules that were used, in order."""
        return re.findall(r"^[SD] .*", self.run(["./pan", "-S", "-r", f"{MODEL.name}.trail"]), re.MULTILINE)


@pytest.fixture(scope="session")
def checker(tmp_path_factory):
    return Checker(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", PROPERTIES)
def test_promise_holds(checker, name):
    output, holds = checker.check(name)
    assert holds, output + "\n".join(checker.story())
    # A model in which next to nothing can happen keeps any promise.
    assert int(re.search(r"(\d+) states, stored", output)[1]) > 10000


@pytest.mark.parametrize("rule", BROKEN)
def test_checker_notices_broken_rule(tmp_path, rule):
    broken = Checker(tmp_path, f"BROKEN_{rule}")
    for promise in BROKEN[rule]:
        output, holds = broken.check(promise)
        assert not holds, output


def test_a_broken_promise_comes_with_its_story(tmp_path):
    broken = Checker(tmp_path, "BROKEN_RESUMES_AFTER_GO")
    broken.check("never_twice")
    story = broken.story()
    assert story[0] == "S COPYING SWITCH: SWITCHING STOP_VM SEND_SWITCH_BEGIN"
    assert "S GO_SENT LINK_LOST: STAYED RESUME_VM NOTHING" in story


def test_every_run_ends(tmp_path):
    """So what is promised to come comes without an assumption of fairness: a run without end would be a cycle."""
    output = Checker(tmp_path, options=["-DNP", "-DNOCLAIM"]).run(["./pan", "-l", "-m100000", "-w20"])
    assert re.search(r"non-progress cycles\s*\+", output) and "errors: 0" in output, output


def test_every_promise_can_be_broken():
    assert set(PROPERTIES) == {promise for promises in BROKEN.values() for promise in promises}


def test_every_broken_rule_is_tried():
    assert set(re.findall(r"BROKEN_(\w+)", TEXT)) - {"HAS_A_USELESS_RULE"} == set(BROKEN)


def unused(directory, *definitions):
    """Statements of the rules that no run reaches. For this the rules are not run at one stroke."""
    checker = Checker(directory, "COUNT_RULES", *definitions)
    output = checker.run(["./pan", "-m100000", "-w20", "-N", "never_twice"])
    assert "errors: 0" in output, output
    section = output.split("unreached in proctype world")[1].split("unreached in claim")[0]
    return [line for line in re.findall(r'state \d+, "(.*)"', section) if "printf" not in line]


def test_every_rule_is_used_in_some_run(tmp_path):
    assert unused(tmp_path) == ["refused = 1", "refused = 1"]


def test_a_useless_rule_is_noticed(tmp_path):
    assert "s = S_GONE" in unused(tmp_path, "BROKEN_HAS_A_USELESS_RULE")


def program_table(*options):
    return subprocess.run([BUILD / "tests/model/handover-table", *options], capture_output=True, text=True,
                          check=True).stdout


def model_table(*definitions):
    """The rules in the model's text as the checker gets it."""
    text = subprocess.run(["cc", "-E", "-P", "-x", "c", *[f"-D{name}" for name in definitions], MODEL],
                          capture_output=True, text=True, check=True).stdout
    rules = re.findall(r':: ([sd]) == [SD]_(\w+) && event_\1 == EV_(\w+) ->.*?printf\("(.*?)"\).*?\1 = [SD]_(\w+);', text,
                       re.DOTALL)
    for side, state, event, words, following in rules:
        assert words.startswith(f"{side.upper()} {state} {event}: {following} "), words
    return [words for *_, words, _ in rules]


def test_program_and_model_have_the_same_rules():
    program = program_table().splitlines()
    assert len(program) > 80
    assert sorted(model_table()) == sorted(program)


def test_a_model_with_another_rule_is_noticed():
    assert sorted(model_table("BROKEN_FORGETS_PAGES")) != sorted(program_table().splitlines())


def test_manual_has_the_same_rules():
    manual = (REPOSITORY / "docs/migration-handover.md").read_text()
    table = re.search(r"<!-- made by handover-table --markdown -->\n(.*)<!-- end -->\n", manual, re.DOTALL)
    assert table and table[1].strip() == program_table("--markdown").strip(), \
        "put the output of build/tests/model/handover-table --markdown there"
