"""A person in a plain terminal: IPython on a pseudo terminal, with the embedded model."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pexpect = pytest.importorskip("pexpect", reason="IPython brings it where there are terminals")

PROMPT = r"In \[\d+\]: "
PATIENCE_S = 120


@pytest.fixture(scope="module")
def terminal(
    converted_smollm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pexpect.spawn]:
    assert converted_smollm.is_dir()
    environment = os.environ | {
        "IPYTHONDIR": str(tmp_path_factory.mktemp("ipython")),
        "COLUMNS": "60",
        "TERM": "dumb",
    }
    child = pexpect.spawn(
        sys.executable,
        ["-m", "IPython", "--simple-prompt", "--colors=NoColor", "--no-banner", "--nosep"],
        env=environment,
        encoding="utf-8",
        timeout=PATIENCE_S,
        dimensions=(40, 60),
        cwd=str(Path(__file__).parents[2]),
    )
    child.expect(PROMPT)
    assert "Error" not in run(child, "%load_ext ollm")
    yield child
    child.close(force=True)


def run(terminal: pexpect.spawn, code: str) -> str:
    """Type a cell of one line; what is printed until the next prompt."""
    terminal.sendline(code)
    terminal.expect_exact(code)  # the terminal's own echo
    terminal.expect(PROMPT)
    return str(terminal.before).replace("\r\n", "\n").strip("\n")


def ask(terminal: pexpect.spawn, line: str, question: str) -> None:
    for each in (line, question, "", ""):  # so many end a cell here
        terminal.sendline(each)
    terminal.expect_exact(question)


def test_a_load_is_one_line_that_is_written_over(terminal: pexpect.spawn) -> None:
    printed = run(terminal, "runtime = %ollm load smollm2-135m --dtype float32")
    assert "\n" not in printed
    written = [line.strip() for line in printed.split("\r") if line.strip()]
    assert len(written) > 1
    assert written[-1].startswith("smollm2-135m: ready after ")
    assert max(map(len, printed.split("\r"))) < 60, "it would go on in a second line"


def test_an_answer_is_printed_as_it_comes_and_ctrl_c_keeps_what_there_is(
    terminal: pexpect.spawn,
) -> None:
    # It would go on for minutes.
    question = "List all numbers from 1 to 5000, separated by commas."
    ask(terminal, "%%ollm --into stopped --max-new-tokens 3000", question)
    terminal.expect(r"\d+, \d+, \d+, ")
    terminal.sendintr()
    terminal.expect_exact("[stopped]")
    terminal.expect(PROMPT)
    kept = run(terminal, "print(stopped.finish_reason, len(stopped.text) > 5)")
    assert kept == "cancelled True"
    ask(terminal, "%%ollm --max-new-tokens 12", "What is the capital of France?")
    terminal.expect_exact("Paris")
    terminal.expect(PROMPT)


def test_objects_are_shown_as_text(terminal: pexpect.spawn) -> None:
    assert "Reason" in run(terminal, "runtime.plan")
    assert "smollm2-135m" in run(terminal, "%ollm memory")
    assert "smollm2-135m\nWorkbench, as it was on " in run(terminal, "%ollm")


def test_a_mistake_is_one_line_that_moves_nothing_on_the_screen(terminal: pexpect.spawn) -> None:
    printed = run(terminal, r"get_ipython().run_line_magic('ollm', 'info path:/no\x1b[2Jwhere')")
    assert "\x1b" not in printed.replace("␛", "")
    assert "[2J" in printed
    printed = run(terminal, "%ollm nonsense")
    assert re.sub(r"\s+", " ", printed).startswith("UsageError: %ollm: 'nonsense' is no command.")
