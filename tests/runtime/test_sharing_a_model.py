"""Several callers of a real model, and several models side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ollm_widgets import (
    Cancelled,
    GenerationConfig,
    LoadedRuntime,
    RuntimeClosedError,
    RuntimeConfig,
    RuntimeLoader,
)

PATIENCE_S = 30.0
LONG = GenerationConfig(max_new_tokens=200)
SHORT = GenerationConfig(max_new_tokens=12)


@pytest.fixture(scope="module")
def tiny(saved_llama: Path) -> Iterator[LoadedRuntime]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with RuntimeLoader().load(RuntimeConfig(f"path:{saved_llama}", device="cpu")) as runtime:
        yield runtime
    torch.set_num_threads(threads)


class Held:
    """A request that holds a runtime in the midst of an answer until it is let on."""

    def __init__(self, runtime: LoadedRuntime) -> None:
        self._on = threading.Event()
        self._entered = threading.Event()
        self._layer = runtime.model.model.layers[0]
        self._hook = self._layer.register_forward_pre_hook(self._wait)
        self.stream = runtime.stream("w3 w4", SHORT, caller="held")
        assert self._entered.wait(PATIENCE_S)

    def _wait(self, *_args: object) -> None:
        self._entered.set()
        assert self._on.wait(PATIENCE_S)

    def let_on(self) -> None:
        self._hook.remove()
        self._on.set()


def test_an_answer_that_is_cancelled_while_it_waits_ends_at_once(tiny: LoadedRuntime) -> None:
    held, cancel = Held(tiny), threading.Event()
    stream = tiny.stream("w5 w6 w7", LONG, cancel, caller="chat")
    cancel.set()
    (only,) = stream
    assert (only.text, only.finish_reason, only.prompt_tokens) == ("", "cancelled", 3)
    completion = tiny.complete("w5 w6", LONG, cancel)
    assert (completion.text, completion.finish_reason) == ("", "cancelled")
    prompt = torch.tensor([[3, 4, 5]])
    assert torch.equal(tiny.generate(prompt, LONG, cancel=cancel), prompt)
    with pytest.raises(Cancelled):
        tiny.compare_kv("w3 w4", cancel=cancel)
    assert [each.caller for each in tiny.queue] == ["held"]
    held.let_on()
    assert list(held.stream)[-1].finish_reason in ("length", "stop")


def test_a_queue_says_who_waits_and_a_stream_hears_its_position(tiny: LoadedRuntime) -> None:
    held, told = Held(tiny), []
    stream = tiny.stream("w5", SHORT, caller="chat", on_wait=told.append)
    other = tiny.stream("w6", SHORT)
    me = threading.current_thread().name
    assert [(each.caller, each.position) for each in tiny.queue] == [
        ("held", 0),
        ("chat", 1),
        (me, 2),
    ]
    threading.Timer(0.3, held.let_on).start()
    assert list(stream)[-1].new_tokens
    assert told == [1, 0]
    other.close()


def test_callers_of_one_model_take_turns_and_each_gets_its_own_answer(
    tiny: LoadedRuntime,
) -> None:
    prompts = {
        caller: [f"w{10 * place + n}" for n in range(1, 5)]
        for place, caller in enumerate(("a", "b", "c"), start=1)
    }
    alone = {text: tiny.complete(text, SHORT).text for texts in prompts.values() for text in texts}
    ended: list[str] = []
    answers: dict[str, str] = {}

    def read(caller: str, text: str, stream: Iterator[object]) -> None:
        answers[text] = "".join(piece.text for piece in stream)  # type: ignore[attr-defined]
        ended.append(caller)

    held = Held(tiny)
    # One caller asks for everything before the next comes.
    threads = [
        threading.Thread(target=read, args=(caller, text, tiny.stream(text, SHORT, caller=caller)))
        for caller, texts in prompts.items()
        for text in texts
    ]
    shown = [each.caller for each in tiny.queue[1:]]
    assert shown == ["a", "b", "c"] * 4
    for thread in threads:
        thread.start()
    held.let_on()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert answers == alone


def test_the_busy_end_of_a_request_is_a_cancelled_answer(tiny: LoadedRuntime) -> None:
    stream = tiny.stream("w3 w4", LONG)
    first = next(stream)
    assert tiny.cancel_running()
    assert [first, *stream][-1].finish_reason in ("cancelled", "stop")


def test_a_runtime_closes_itself_only_while_nobody_asks_it(saved_llama: Path) -> None:
    runtime = RuntimeLoader().load(RuntimeConfig(f"path:{saved_llama}", device="cpu"))
    told: list[bool] = []
    runtime.watch_activity(told.append)
    held = Held(runtime)
    assert not runtime.close_if_idle()
    assert not runtime.closed
    held.let_on()
    assert list(held.stream)[-1].new_tokens
    assert runtime.close_if_idle()
    assert runtime.closed
    assert runtime.close_if_idle()
    assert told == [True, False]


def test_who_asks_a_closed_runtime_is_told_why_it_was_closed(saved_llama: Path) -> None:
    runtime = RuntimeLoader().load(RuntimeConfig(f"path:{saved_llama}", device="cpu"))
    assert runtime.close_if_idle(" for gamma")
    runtime.close()
    with pytest.raises(RuntimeClosedError, match=r"tiny-llama was closed for gamma\. Load the"):
        runtime.complete("w3")


def test_two_models_answer_side_by_side_as_each_would_alone(
    saved_llama: Path, tiny: LoadedRuntime
) -> None:
    with RuntimeLoader().load(RuntimeConfig(f"path:{saved_llama}", device="cpu")) as other:
        prompt = torch.tensor([[3, 4, 5, 6]])
        expected = [each.generate(prompt, LONG) for each in (tiny, other)]
        # The second answers from end to end while the first is in the midst of its answer.
        held = Held(tiny)
        assert torch.equal(other.generate(prompt, LONG), expected[1])
        assert tiny.busy
        held.let_on()
        list(held.stream)
        answers: dict[int, torch.Tensor] = {}

        def ask(number: int, runtime: LoadedRuntime) -> None:
            for _ in range(5):
                answers[number] = runtime.generate(prompt, LONG)

        threads = [
            threading.Thread(target=ask, args=(number, runtime))
            for number, runtime in enumerate((tiny, other))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert torch.equal(answers[0], expected[0])
        assert torch.equal(answers[1], expected[1])
