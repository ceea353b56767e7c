from __future__ import annotations

import pytest

from ollm_widgets import LoadProgress
from ollm_widgets.notebook.progress import ProgressLine


def last_line(printed: str) -> str:
    return printed.rsplit("\r", maxsplit=1)[-1].strip()


def test_a_load_that_waits_says_for_whom(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine("b", lambda: "waits for a, which is answering")
    line.show(LoadProgress("Wait for room", 0, 0))
    assert last_line(capsys.readouterr().out) == "b: waits for a, which is answering"
    line.end("ready")
    assert last_line(capsys.readouterr().out).startswith("b: ready after ")


def test_a_stage_says_its_share(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLine("b").show(LoadProgress("Read weights", 50, 200))
    assert last_line(capsys.readouterr().out) == "b: read weights, 25 % of 200 B"


def test_of_a_long_path_the_end_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine("path:/home/somebody/" + "models/" * 20 + "tiny")
    line.show(LoadProgress("Build", 0, 0))
    line.end("ready")
    said = last_line(capsys.readouterr().out)
    assert said.startswith("…")
    assert "models/tiny: ready after " in said
    assert len(said) <= 72
