from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets import LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.runtime.chat_traits import ChatTraits, sampling_of

SYSTEM = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
NO_SYSTEM = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}"


@pytest.fixture
def runtime(saved_llama: Path) -> Iterator[LoadedRuntime]:
    with RuntimeLoader().load(RuntimeConfig(f"path:{saved_llama}", device="cpu")) as runtime:
        yield runtime


def test_they_are_those_of_the_model_as_it_is_now(runtime: LoadedRuntime) -> None:
    for template, has, takes in (
        (SYSTEM, True, True),
        (NO_SYSTEM, True, False),
        (None, False, True),
    ):
        runtime.tokenizer.chat_template = template
        assert runtime.chat_traits.has_template is has
        assert runtime.chat_traits.takes_instructions is takes
    runtime.model.generation_config.top_k = 20
    runtime.model.generation_config.top_p = 0.9
    assert runtime.chat_traits.sampling["top_k"] == 20
    assert runtime.chat_traits.sampling["top_p"] == 0.9


def test_what_a_model_does_not_say_is_not_there() -> None:
    assert sampling_of(None) == {}


def test_they_cross_to_another_process(runtime: LoadedRuntime) -> None:
    assert pickle.loads(pickle.dumps(runtime.chat_traits)) == runtime.chat_traits
    assert ChatTraits().takes_instructions


def test_a_closed_runtime_has_none(runtime: LoadedRuntime) -> None:
    runtime.close()
    with pytest.raises(RuntimeClosedError):
        _ = runtime.chat_traits
