from __future__ import annotations

import threading

import pytest
import torch

from ollm_widgets import (
    ConfigError,
    GenerationConfig,
    LoadedRuntime,
    RuntimeClosedError,
    RuntimeConfig,
    RuntimeLoader,
)

QUESTION = "What is the capital of France?"
SHORT = GenerationConfig(max_new_tokens=24)


def reference_ids(runtime: LoadedRuntime, text: str, new_tokens: int) -> torch.Tensor:
    """What transformers' own generate gives, [1, prompt + new]."""
    encoded = runtime.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    return runtime.model.generate(**encoded, do_sample=False, max_new_tokens=new_tokens)


def reference_text(runtime: LoadedRuntime, text: str, new_tokens: int) -> str:
    output = reference_ids(runtime, text, new_tokens)
    prompt = runtime.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
    )
    start = len(prompt["input_ids"])
    return runtime.tokenizer.decode(output[0, start:], skip_special_tokens=True)


@pytest.mark.parametrize(
    "question", [QUESTION, "Write a short poem about the sea.", "Zähle auf Deutsch bis fünf. 😀"]
)
def test_streamed_text_is_what_transformers_own_generate_gives(
    runtime: LoadedRuntime, question: str
) -> None:
    pieces = [delta.text for delta in runtime.stream(question, SHORT)]
    assert "".join(pieces) == reference_text(runtime, question, 24)
    assert len([piece for piece in pieces if piece]) > 1


def test_the_answer_says_paris_and_why_it_ended(runtime: LoadedRuntime) -> None:
    completion = runtime.complete(QUESTION)
    assert "Paris" in completion.text
    assert completion.finish_reason == "stop"
    assert completion.new_tokens > 1
    assert 0 < completion.time_to_first_token_s < completion.seconds


def test_generate_gives_the_token_ids_of_transformers(runtime: LoadedRuntime) -> None:
    prompt = runtime.tokenizer("The sea is", return_tensors="pt").input_ids
    expected = runtime.model.generate(prompt, do_sample=False, max_new_tokens=16)
    assert torch.equal(runtime.generate(prompt, GenerationConfig(max_new_tokens=16)), expected)


def test_a_padded_batch_gives_the_token_ids_of_transformers(runtime: LoadedRuntime) -> None:
    tokenizer = runtime.tokenizer
    tokenizer.padding_side = "left"
    batch = tokenizer(["The sea is", "One two three four"], return_tensors="pt", padding=True)
    expected = runtime.model.generate(**batch, do_sample=False, max_new_tokens=8)
    output = runtime.generate(
        batch.input_ids, GenerationConfig(max_new_tokens=8), attention_mask=batch.attention_mask
    )
    assert torch.equal(output, expected)


def test_a_cache_that_is_passed_in_carries_the_conversation_on(runtime: LoadedRuntime) -> None:
    runtime.reset_kv_cache_instances()
    cache = runtime.get_or_create_kv_cache()
    prompt = runtime.tokenizer("The sea is", return_tensors="pt").input_ids
    first = runtime.generate(prompt, GenerationConfig(max_new_tokens=8), kv_cache=cache)
    assert cache.get_seq_length() == first.shape[1] - 1
    second = runtime.generate(first, GenerationConfig(max_new_tokens=8), kv_cache=cache)
    whole = runtime.generate(prompt, GenerationConfig(max_new_tokens=16))
    assert torch.equal(second, whole[:, : second.shape[1]])


def test_one_cache_instance_stands_for_one_choice(runtime: LoadedRuntime) -> None:
    first = runtime.get_or_create_kv_cache()
    assert runtime.get_or_create_kv_cache() is first
    window = runtime.get_or_create_kv_cache(strategy="sliding-window-ring-buffer")
    assert window is not first
    runtime.reset_kv_cache_instances()
    assert runtime.get_or_create_kv_cache() is not first


def test_what_has_no_pages_on_disk_cannot_outlive_the_runtime(runtime: LoadedRuntime) -> None:
    with pytest.raises(ValueError, match="resident has none"):
        runtime.get_or_create_kv_cache(strategy="resident", lifecycle="persistent")


def test_stopping_mid_answer_keeps_the_text_so_far_and_the_next_question_is_answered(
    runtime: LoadedRuntime,
) -> None:
    cancel = threading.Event()
    pieces = []
    for delta in runtime.stream("Tell me a very long story.", cancel=cancel):
        pieces.append(delta)
        if delta.new_tokens >= 3:
            cancel.set()
    assert pieces[-1].finish_reason == "cancelled"
    assert 3 <= pieces[-1].new_tokens < 100
    assert "Paris" in runtime.complete(QUESTION).text


def test_stopping_before_the_first_token_gives_an_empty_answer(runtime: LoadedRuntime) -> None:
    cancel = threading.Event()
    cancel.set()
    (only,) = runtime.stream("word " * 1500, cancel=cancel)
    assert (only.text, only.finish_reason, only.new_tokens) == ("", "cancelled", 0)


def test_leaving_the_loop_early_frees_the_model_for_the_next_request(
    runtime: LoadedRuntime,
) -> None:
    for delta in runtime.stream("Tell me a very long story."):
        if delta.new_tokens >= 2:
            break
    assert "Paris" in runtime.complete(QUESTION).text


def test_requests_of_several_threads_queue_and_each_gets_its_own_answer(
    runtime: LoadedRuntime,
) -> None:
    questions = [f"Repeat the number {n}." for n in range(4)]
    expected = [runtime.complete(question, SHORT).text for question in questions]
    answers = [""] * len(questions)

    def ask(index: int) -> None:
        answers[index] = runtime.complete(questions[index], SHORT).text

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == expected


def test_an_answer_ends_before_a_stop_string(runtime: LoadedRuntime) -> None:
    whole = runtime.complete(QUESTION).text
    completion = runtime.complete(QUESTION, GenerationConfig(stop=("Paris",)))
    assert completion.finish_reason == "stop-string"
    assert completion.text == whole.split("Paris", maxsplit=1)[0]


def test_the_length_limit_is_named_as_the_reason(runtime: LoadedRuntime) -> None:
    completion = runtime.complete("Tell me a story.", GenerationConfig(max_new_tokens=5))
    assert (completion.finish_reason, completion.new_tokens) == ("length", 5)


def test_the_same_seed_gives_the_same_sample_and_leaves_torchs_generator_alone(
    runtime: LoadedRuntime,
) -> None:
    sampled = GenerationConfig(max_new_tokens=12, temperature=1.0, seed=7)
    state = torch.random.get_rng_state()
    first = runtime.complete("Invent a name.", sampled).text
    assert runtime.complete("Invent a name.", sampled).text == first
    assert torch.equal(torch.random.get_rng_state(), state)
    other = GenerationConfig(max_new_tokens=12, temperature=1.0, seed=8)
    assert runtime.complete("Invent a name.", other).text != first


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(
    runtime: LoadedRuntime,
) -> None:
    limit = runtime.capabilities.context_length
    with pytest.raises(ConfigError, match=f"{limit:,}"):
        runtime.complete("word " * (limit + 10))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("  ", "empty"),
        ([], "empty"),
        ([{"role": "robot", "content": "hi"}], "robot"),
        ([{"role": "user", "content": None}], "content"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused_before_it_is_queued(
    runtime: LoadedRuntime, prompt: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        runtime.stream(prompt)  # type: ignore[arg-type]


def test_ids_of_the_wrong_shape_are_refused(runtime: LoadedRuntime) -> None:
    with pytest.raises(ConfigError, match=r"\[batch, tokens\]"):
        runtime.generate(torch.tensor([1, 2, 3]))


def test_memory_counts_the_weights_where_they_are(runtime: LoadedRuntime) -> None:
    runtime.reset_kv_cache_instances()
    use = runtime.memory()
    weights = list(runtime.model.parameters())
    exact = sum(tensor.numel() * tensor.element_size() for tensor in weights)
    # Each tensor begins at a multiple of 512 bytes of its layer's buffer.
    assert exact <= use.host_weights_bytes < exact + 512 * len(weights)
    assert use.host_kv_bytes == 0
    cache = runtime.get_or_create_kv_cache()
    prompt = runtime.tokenizer("The sea is", return_tensors="pt").input_ids
    runtime.generate(prompt, GenerationConfig(max_new_tokens=4), kv_cache=cache)
    assert runtime.memory().host_kv_bytes > 0
    runtime.reset_kv_cache_instances()


def test_a_runtime_shows_itself_as_a_card_and_as_text(runtime: LoadedRuntime) -> None:
    assert runtime.name in runtime.to_html()
    assert "optimized-native" in runtime.to_text()
    assert "optimized-native" in repr(runtime)
    completion = runtime.complete(QUESTION)
    assert "Paris" in completion.to_html()
    assert "Paris" in completion.to_markdown()
    assert "Paris" in str(completion)


def test_a_closed_runtime_says_so_and_holds_no_memory(saved_llama: object) -> None:
    runtime = RuntimeLoader().load(RuntimeConfig(f"path:{saved_llama}"))
    with runtime:
        assert runtime.memory().host_bytes > 0
    runtime.close()
    assert runtime.memory().host_bytes == 0
    with pytest.raises(RuntimeClosedError, match="Load the model again"):
        runtime.stream("hello")
    assert "closed" in repr(runtime)
