from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ollm_widgets.notebook.answer import print_answer
from ollm_widgets.notebook.printing import rewrite_line, say
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.runtime.completion import Completion, Delta

PIECES = ("See: \x1b", "]8;;http://evil\x1b\\", "here\r", "\nor \x1b[", "2Jthere\b\b\u202e.")


class Saying:
    """Says what no real model can be made to say."""

    name = "model\x1b[31m"
    queue = (SimpleNamespace(caller="another cell"),)

    def stream(self, *_asked: object, **_more: object) -> Iterator[Delta]:
        for number, piece in enumerate(PIECES):
            reason = "stop" if piece is PIECES[-1] else None
            yield Delta(piece, 3, number + 1, 0.1, 0.2, reason)  # type: ignore[arg-type]


def answered() -> Completion | None:
    runtime: Any = Saying()
    return print_answer(None, runtime, "Hi.", GenerationConfig(), caller="test")  # type: ignore[arg-type]


def test_what_a_model_says_cannot_drive_the_screen_and_is_kept_as_it_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    completion = answered()
    assert capsys.readouterr().out == (
        "[model␛[31m: 1 answer comes first]\nSee: ␛]8;;http://evil␛\\here\nor ␛[2Jthere␈␈\ufffd.\n"
    )
    assert completion is not None
    assert completion.text == "".join(PIECES)


def test_lines_of_our_own_cannot_either(capsys: pytest.CaptureFixture[str]) -> None:
    say("at /tmp/\x1b[2Jfolder\nand on")
    rewrite_line("a\x1b[2J\n\rb" + "x" * 500)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert printed.splitlines()[0] == "at /tmp/␛[2Jfolder"
    assert printed.count("\n") == 2  # of what was said, and none of the line that stays one
