"""What files say that cannot be sent as it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ollm_widgets import Session
from ollm_widgets.protocol.pieces import Chip, Problem
from ollm_widgets.protocol.wire import as_plain_data
from tests.protocol.page import Page

HALF_A_PAIR = "\ud800"


def test_what_can_be_sent_is_sent_as_it_is() -> None:
    problem = Problem(code="a", message="\U0001f600 \x00 \u202e <b>", hint="\ufffd")
    assert as_plain_data(problem) == {
        "code": "a",
        "message": "\U0001f600 \x00 \u202e <b>",
        "hint": "\ufffd",
    }


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert as_plain_data(Chip(text=f"a{HALF_A_PAIR}b\udcff")) == {"text": "a?b?", "tone": "neutral"}


def test_a_config_that_cannot_be_sent_hides_no_other_model(
    session: Session, own_models_folder: Path
) -> None:
    for name, architecture in (("one", "LlamaForCausalLM"), ("two", HALF_A_PAIR)):
        (own_models_folder / name).mkdir()
        config = {"model_type": architecture, "architectures": [architecture]}
        content = json.dumps(config)  # with the half pair as an escape
        (own_models_folder / name / "config.json").write_text(content, encoding="utf-8")
    with Page(session) as page:
        page.ask("hello")
        page.until(lambda: {"one", "two"} <= names(page))


def test_a_folder_whose_name_is_no_text_hides_no_other_model(
    session: Session, own_models_folder: Path
) -> None:
    try:
        folder = own_models_folder / os.fsdecode(b"name\xff")
        folder.mkdir()
    except OSError:
        pytest.skip("This file system takes only names that are text.")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with Page(session) as page:
        page.ask("hello")
        page.until(lambda: "name?" in names(page))


def names(page: Page) -> set[str]:
    if not page.events("snapshot"):
        return set()
    return {item["name"] for item in page.drawn["models"]["items"]}
