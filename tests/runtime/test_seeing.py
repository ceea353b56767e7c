"""Models that see: images in messages, answered as transformers answers them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.errors import ConfigError
from tests.runtime.seeing_models import (
    GEMMA3,
    IDEFICS3,
    NEW_TOKENS,
    QWEN2_VL,
    SEEING,
    SeeingModel,
    answered,
    asking,
    expected,
    picture,
    save_seeing,
)

SHORT = GenerationConfig(max_new_tokens=NEW_TOKENS)
# What the backends differ in: who loads the model, and where its layers are.
WAYS: dict[str, dict[str, Any]] = {
    "generic": {"backend": "transformers-generic"},
    "native": {"backend": "optimized-native"},
    "streamed": {"backend": "optimized-native", "offload_cpu_layers": 1},
}
QUESTIONS = {
    "an image": asking("w5 w6", picture(1), "w9"),
    "two images": asking(picture(2), "w5", picture(3, 20, 44), "w7 w8"),
    "a text": asking("w5 w6 w7"),
}
Load = Callable[..., LoadedRuntime]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[SeeingModel], Path]:
    root = tmp_path_factory.mktemp("seeing")

    def folder_of(model: SeeingModel) -> Path:
        folder = root / str(model)
        return folder if folder.exists() else save_seeing(model, folder)

    return folder_of


@pytest.fixture(scope="module")
def load(folder_of: Callable[[SeeingModel], Path]) -> Iterator[Load]:
    loaded: dict[str, LoadedRuntime] = {}

    def load(model: SeeingModel, **changes: Any) -> LoadedRuntime:
        key = f"{model}{changes}"
        if key not in loaded:
            given = {"device": "cpu", "dtype": "float32", "multimodal": True, **changes}
            loaded[key] = RuntimeLoader().load(RuntimeConfig(folder_of(model), **given))
        return loaded[key]

    yield load
    for runtime in loaded.values():
        runtime.close()


def text_of(runtime: LoadedRuntime, messages: Any) -> str:
    """What transformers answers with the runtime's processor."""
    ids = expected(Path(runtime.model_path), runtime.processor, messages)
    return str(runtime.tokenizer.decode(ids[0], skip_special_tokens=True))


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", SEEING, ids=str)
def test_an_answer_is_that_of_transformers(
    load: Load, model: SeeingModel, way: str, question: str
) -> None:
    runtime = load(model, **WAYS[way])
    messages = QUESTIONS[question]
    answer = runtime.complete(messages, SHORT)
    assert answer.new_tokens == NEW_TOKENS
    assert answer.text == text_of(runtime, messages)


@pytest.mark.parametrize("model", SEEING, ids=str)
def test_other_pixels_are_another_prompt(load: Load, model: SeeingModel) -> None:
    runtime = load(model, **WAYS["generic"])
    one, other = (asking("w5 w6", picture(seed), "w9") for seed in (1, 7))
    first = runtime.complete(one, SHORT)
    second = runtime.complete(other, SHORT)
    assert second.prompt_tokens == first.prompt_tokens
    assert second.text == text_of(runtime, other) != first.text
    assert second.reused_tokens == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", SEEING, ids=str)
def test_a_next_turn_goes_on_behind_the_image(load: Load, model: SeeingModel, way: str) -> None:
    runtime = load(model, **WAYS[way])
    messages = asking("w5 w6", picture(1), "w9")
    first = runtime.complete(messages, SHORT)
    messages = [
        *messages,
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "w11 w12"},
    ]
    second = runtime.complete(messages, SHORT)
    as_parts = [
        message
        if isinstance(message["content"], list)
        else {**message, "content": [{"type": "text", "text": message["content"]}]}
        for message in messages
    ]
    assert second.text == text_of(runtime, as_parts)
    assert second.reused_tokens >= first.prompt_tokens - 1


def test_what_came_between_does_not_move_the_images(load: Load) -> None:
    runtime = load(QWEN2_VL, **WAYS["native"])
    tall, wide = (asking("w5", picture(4, *size), "w9") for size in ((20, 44), (60, 16)))
    for messages in (tall, wide, asking("w5 w6"), tall, asking("w5 w6 w7 w8")):
        assert runtime.complete(messages, SHORT).text == text_of(runtime, messages)


def test_a_prompt_in_chunks_sees_the_same(load: Load) -> None:
    for model in (QWEN2_VL, GEMMA3):
        runtime = load(model, **WAYS["streamed"])
        messages = asking("w5 " * 20, picture(5), "w9 " * 30)
        runtime._open().engine.chunk_prompts(16)  # type: ignore[union-attr]
        try:
            assert runtime.complete(messages, SHORT).text == text_of(runtime, messages)
        finally:
            runtime._open().engine.chunk_prompts(None)  # type: ignore[union-attr]


@pytest.mark.parametrize("strategy", ["paged", "sliding-window-ring-buffer", "quantized-cold-tier"])
def test_images_go_through_every_kind_of_cache(load: Load, strategy: str, tmp_path: Path) -> None:
    runtime = load(QWEN2_VL, **WAYS["native"], kv_cache_strategy=strategy, cache_dir=tmp_path)
    messages = asking("w5 w6", picture(1), "w9")
    assert runtime.complete(messages, SHORT).text == text_of(runtime, messages)


def test_a_cancelled_answer_about_an_image_leaves_nothing_wrong(load: Load) -> None:
    runtime = load(QWEN2_VL, **WAYS["generic"])
    messages = asking("w5 w6", picture(8), "w9")
    cancel = threading.Event()
    with runtime.stream(messages, GenerationConfig(max_new_tokens=400), cancel) as pieces:
        next(pieces)
        cancel.set()
        assert list(pieces)[-1].finish_reason == "cancelled"
    assert runtime.complete(messages, SHORT).text == text_of(runtime, messages)


def test_a_persistent_cache_remembers_texts_alone(load: Load, tmp_path: Path) -> None:
    options = {"kv_cache_strategy": "paged", "kv_cache_lifecycle": "persistent"}
    runtime = load(QWEN2_VL, **WAYS["native"], **options, cache_dir=tmp_path)
    for seed in (1, 2):
        messages = asking("w5 " * 40, picture(seed), "w9")
        assert runtime.complete(messages, SHORT).text == text_of(runtime, messages)
    runtime.reset_kv_cache_instances()
    assert runtime.complete(messages, SHORT).reused_tokens == 0


def test_a_runtime_says_what_it_takes(load: Load, saved_llama: Path) -> None:
    assert load(QWEN2_VL, **WAYS["native"]).accepts == ("text", "image")
    assert load(QWEN2_VL, multimodal=False).accepts == ("text",)
    config = RuntimeConfig(saved_llama, device="cpu", backend="transformers-generic")
    with RuntimeLoader().load(config) as runtime:
        assert runtime.accepts == ("text",)
        with pytest.raises(ConfigError, match=r"takes text only\. Choose a model"):
            runtime.complete(asking("w5", picture(1)))
        assert runtime.complete(asking("w5 w6"), SHORT).new_tokens


def test_a_model_loaded_for_text_says_how_it_takes_images(load: Load) -> None:
    runtime = load(QWEN2_VL, multimodal=False)
    assert runtime.processor is None
    with pytest.raises(ConfigError, match=r"content\[0\]: is an image; .* multimodal=True"):
        runtime.complete(asking(picture(1)))


def test_a_comparison_of_caches_takes_text_only(load: Load) -> None:
    runtime = load(QWEN2_VL, **WAYS["native"])
    with pytest.raises(ConfigError, match=r"takes text only\. Leave the image out"):
        runtime.compare_kv(asking("w5", picture(1)))


def test_the_same_processor_answers_on_the_loaded_model_too(load: Load) -> None:
    runtime = load(QWEN2_VL, **WAYS["native"])
    messages = QUESTIONS["an image"]
    ids = answered(runtime.model, runtime.processor, messages)
    text = runtime.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert runtime.complete(messages, SHORT).text == text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"type": "audio", "audio": b""}], "audio is not given to models"),
        ([{"type": "video", "video": "a.mp4"}], "got type 'video'"),
        ([{"type": "text"}], "got type 'text'"),
        (["w5"], "got type None"),
        ([{"type": "image"}], "got 0 of them"),
        ([{"type": "image", "url": "https://example.org/a.png"}], "never fetched"),
        (asking(*[picture(1, 8, 8)] * 65)[0]["content"], "a request may have 64"),
    ],
)
def test_what_is_no_text_and_no_image_is_refused(load: Load, content: Any, said: str) -> None:
    runtime = load(QWEN2_VL, **WAYS["native"])
    with pytest.raises(ConfigError, match=said):
        runtime.complete([{"role": "user", "content": content}], SHORT)


@pytest.mark.parametrize("model", SEEING, ids=str)
def test_the_mark_of_an_image_typed_by_somebody_is_refused(load: Load, model: SeeingModel) -> None:
    runtime = load(model, **WAYS["native"])
    for mark in {runtime.processor.image_token, model.specials[0 if model is not IDEFICS3 else 1]}:
        for parts in ((f"w5 {mark} w6",), (picture(1), f"w5 {mark} w6")):
            with pytest.raises(ConfigError, match="which stands for an image to this model"):
                runtime.complete(asking(*parts), SHORT)
