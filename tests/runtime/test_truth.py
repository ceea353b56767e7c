"""What a plan predicted, beside what a real model then did."""

from __future__ import annotations

import gc
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.selector import BackendSelector
from ollm_widgets.planning.speed.alike import shape_of
from ollm_widgets.planning.speed.asking import predict_for
from ollm_widgets.planning.speed.correcting import calculated
from ollm_widgets.planning.speed.observed import Observed, default_store
from ollm_widgets.runtime.predicted_and_measured import (
    FIRST_TOKEN,
    LOAD,
    SECONDS_PER_TOKEN,
    PredictedAndMeasured,
    TruthReport,
)

ANSWER = GenerationConfig(max_new_tokens=12)
QUESTION = " ".join(f"w{n}" for n in range(2, 22))
# A machine that nobody has: what it calculates is far from what is measured.
SPEEDS = Bandwidth(read_bytes_per_s=1e7, flops_per_s=1e9, page_cache_bytes_per_s=1e9)


@pytest.fixture(autouse=True)
def own_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remember in a folder of the test."""
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("OLLM_OBSERVE", raising=False)


@pytest.fixture
def loader() -> RuntimeLoader:
    return RuntimeLoader(selector=BackendSelector(measure=lambda device: SPEEDS))


@pytest.fixture
def config(saved_llama: Path) -> RuntimeConfig:
    return RuntimeConfig(f"path:{saved_llama}", dtype="float32", device="cpu")


@pytest.fixture
def runtime(loader: RuntimeLoader, config: RuntimeConfig) -> Iterator[LoadedRuntime]:
    with loader.load(config) as runtime:
        yield runtime


def remembered(plan: RuntimePlan) -> Observed:
    store = default_store()
    assert store is not None
    return store.read(shape_of(plan))


def seconds_per_token(plan: RuntimePlan) -> float:
    assert plan.speed is not None
    return plan.speed.seconds_per_token


# ---------------------------------------------------------------------- what is shown


def test_a_load_puts_its_seconds_and_its_memory_beside_the_plan(runtime: LoadedRuntime) -> None:
    report = runtime.truth
    load = report.find(LOAD)
    assert load is not None
    parts = [row for row in report.rows if row.part]
    assert [row.what for row in parts] == ["Plan", "Build", "Read weights", "Warm up"]
    assert runtime.plan.speed is not None
    assert load.predicted == pytest.approx(runtime.plan.speed.load_s)
    assert load.measured == pytest.approx(sum(row.measured for row in parts))
    memory = report.find("RAM for weights")
    assert memory is not None
    assert memory.measured == runtime.memory().host_weights_bytes
    # Tensors begin at multiples of 512 bytes, which weighs in a model of 100 kB.
    assert 1 <= memory.ratio < 1.2
    assert report.find(SECONDS_PER_TOKEN) is None
    assert not any(row.what == "Build" for row in report.shown)


def test_an_answer_puts_its_pace_beside_the_plan(runtime: LoadedRuntime) -> None:
    completion = runtime.complete(QUESTION, ANSWER)
    pace, first = runtime.truth.find(SECONDS_PER_TOKEN), runtime.truth.find(FIRST_TOKEN)
    assert pace is not None
    speed = predict_for(runtime.plan, prompt_tokens=20)
    assert speed is not None
    assert pace.predicted == speed.seconds_per_token
    # A completion's own figure has the last piece's text in it as well.
    assert pace.measured <= 1 / completion.tokens_per_s
    assert pace.ratio == pace.measured / pace.predicted
    assert first is not None
    assert first.measured == completion.time_to_first_token_s
    assert first.predicted == speed.time_to_first_token_s
    assert first.remark == "20 prompt tokens"


def test_generated_ids_are_measured_as_answers_are(runtime: LoadedRuntime) -> None:
    ids = runtime.tokenizer(QUESTION, return_tensors="pt").input_ids
    runtime.generate(ids, ANSWER)
    assert runtime.truth.find(SECONDS_PER_TOKEN) is not None
    assert len(remembered(runtime.plan).own["token"]) == 1


def test_the_card_of_a_runtime_shows_the_rows(runtime: LoadedRuntime) -> None:
    before = {row.term: row.text for row in runtime.card().rows}
    assert "Speed" not in before
    assert before["Load"].startswith("Predicted ")
    assert before["RAM for weights"].startswith("Predicted under 1 MiB, measured")
    runtime.complete(QUESTION, ANSWER)
    rows = {row.term: row.text for row in runtime.card().rows}
    pace = runtime.truth.find(SECONDS_PER_TOKEN)
    assert pace is not None
    wanted = f"Predicted {1 / pace.predicted:.3g} tokens/s, measured {1 / pace.measured:.3g}"
    assert rows["Speed"] == wanted
    assert rows["First token"].endswith("for 20 prompt tokens")
    assert wanted in runtime.to_html()


def test_the_report_is_a_table_with_ratios() -> None:
    report = TruthReport(
        "m", (PredictedAndMeasured(SECONDS_PER_TOKEN, 0.0061, 0.0063, "s"),), ("A note.",)
    )
    assert report.as_dicts()[0]["ratio"] == pytest.approx(1.0328, abs=1e-4)
    for text in (report.to_text(), report.to_markdown(), report.to_html()):
        for said in ("0.0061 s", "0.0063 s", "1.03 x", "A note."):
            assert said in text
    assert "Nothing was measured yet" in TruthReport("m").to_text()


# ---------------------------------------------------------------------- what is learnt


def test_after_two_answers_the_next_plan_is_nearer_to_what_is_measured(
    loader: RuntimeLoader, config: RuntimeConfig
) -> None:
    first = loader.plan(config)
    with loader.load(config) as runtime:
        for question in (QUESTION, QUESTION + " w30", "w40 " + QUESTION):
            runtime.complete(question, ANSWER)
    ratios = remembered(first).own["token"]
    second = loader.plan(config)
    assert second.speed is not None
    assert second.speed.correction.observations >= 2
    measured = sorted(ratios)[1] * seconds_per_token(first)
    assert abs(seconds_per_token(second) - measured) < abs(seconds_per_token(first) - measured)
    assert calculated(second.speed).seconds_per_token == pytest.approx(seconds_per_token(first))
    with loader.load(config) as runtime:
        assert "earlier runs on this machine" in runtime.truth.to_text()
        runtime.complete(QUESTION, ANSWER)
    # What is stored stays the ratio to the calculation, whatever was shown.
    third = remembered(first).own["token"]
    assert len(third) == 4
    assert third[1:] == ratios


def test_loads_are_learnt_too(loader: RuntimeLoader, config: RuntimeConfig) -> None:
    plan = loader.plan(config)
    assert plan.speed is not None
    for _ in range(2):
        loader.load(config).close()
    assert len(remembered(plan).own["load"]) == 2
    assert remembered(plan).own["memory"] == pytest.approx((1.0, 1.0), rel=0.2)
    after = loader.plan(config).speed
    assert after is not None
    assert plan.speed.load_s is not None
    assert after.load_s == pytest.approx(plan.speed.load_s * after.correction.load)


def test_short_answers_are_shown_and_not_learnt_from(runtime: LoadedRuntime) -> None:
    runtime.complete(QUESTION, GenerationConfig(max_new_tokens=4))
    assert runtime.truth.find(SECONDS_PER_TOKEN) is not None
    assert "token" not in remembered(runtime.plan).own


def test_a_batch_is_not_what_was_predicted(runtime: LoadedRuntime) -> None:
    ids = runtime.tokenizer(QUESTION, return_tensors="pt").input_ids
    runtime.generate(ids.repeat(2, 1), ANSWER)
    assert runtime.truth.find(SECONDS_PER_TOKEN) is None
    assert "token" not in remembered(runtime.plan).own


def test_traced_answers_are_not_what_was_predicted(runtime: LoadedRuntime) -> None:
    with runtime.trace():
        runtime.complete(QUESTION, ANSWER)
    assert runtime.truth.find(SECONDS_PER_TOKEN) is None


def test_a_callers_own_cache_is_not_what_was_predicted(runtime: LoadedRuntime) -> None:
    ids = runtime.tokenizer(QUESTION, return_tensors="pt").input_ids
    runtime.generate(ids, ANSWER, kv_cache=runtime.get_or_create_kv_cache())
    assert runtime.truth.find(SECONDS_PER_TOKEN) is None


def test_tokens_that_were_there_already_are_no_part_of_the_prompt(runtime: LoadedRuntime) -> None:
    runtime.complete(QUESTION, ANSWER)
    again = runtime.complete(QUESTION + " w30", ANSWER)
    assert again.reused_tokens > 15
    computed = again.prompt_tokens - again.reused_tokens
    speed = predict_for(runtime.plan, computed, again.reused_tokens)
    first = runtime.truth.find(FIRST_TOKEN)
    assert speed is not None
    assert first is not None
    assert first.predicted == speed.time_to_first_token_s
    assert first.remark.startswith(f"{computed} prompt token")


def test_layers_that_were_moved_are_predicted_where_they_are(
    loader: RuntimeLoader, config: RuntimeConfig
) -> None:
    with loader.load(config.copy(offload_cpu_layers=2)) as runtime:
        planned = runtime.plan
        runtime.rebalance(offload_cpu_layers=1)
        runtime.complete(QUESTION, ANSWER)
        pace, speed = runtime.truth.find(SECONDS_PER_TOKEN), predict_for(runtime.plan, 20)
        assert pace is not None
        assert speed is not None
        assert pace.predicted == speed.seconds_per_token
        assert len(remembered(runtime.plan).own["token"]) == 1
    assert shape_of(runtime.plan) != shape_of(planned)
    assert "token" not in remembered(planned).own


def test_an_answer_that_is_stopped_counts_for_the_tokens_it_has(runtime: LoadedRuntime) -> None:
    cancel = threading.Event()
    for piece in runtime.stream(QUESTION, GenerationConfig(max_new_tokens=100), cancel):
        if piece.new_tokens >= 10:
            cancel.set()
    assert len(remembered(runtime.plan).own["token"]) == 1


# ---------------------------------------------------------------------- where it cannot remember


def test_turned_off_nothing_is_remembered_and_the_runtimes_own_figures_stay(
    monkeypatch: pytest.MonkeyPatch, loader: RuntimeLoader, config: RuntimeConfig, tmp_path: Path
) -> None:
    monkeypatch.setenv("OLLM_OBSERVE", "0")
    with loader.load(config) as runtime:
        for _ in range(2):
            runtime.complete(QUESTION, ANSWER)
        assert runtime.truth.find(SECONDS_PER_TOKEN) is not None
        assert runtime.truth.notes == ()
    assert not list(tmp_path.glob("observed*"))
    speed = loader.plan(config).speed
    assert speed is not None
    assert speed.correction.observations == 0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    store = default_store()
    assert store is not None
    connection = sqlite3.connect(store.path, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        connection.close()


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    store = default_store()
    assert store is not None
    store.path.unlink(missing_ok=True)
    store.path.mkdir()
    yield


@pytest.mark.parametrize("trouble", [locked, taken])
def test_what_cannot_be_remembered_is_noted_and_the_answer_is_the_same(
    trouble: Callable[[Path], AbstractContextManager[None]], runtime: LoadedRuntime, tmp_path: Path
) -> None:
    expected = runtime.complete(QUESTION, ANSWER).text
    with trouble(tmp_path):
        assert runtime.complete(QUESTION, ANSWER).text == expected
    (note,) = runtime.truth.notes
    assert "not remembered" in note
    assert "not remembered" in runtime.truth.to_text()
    assert runtime.truth.find(SECONDS_PER_TOKEN) is not None


# ---------------------------------------------------------------------- on an accelerator


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_peak_stands_beside_what_was_planned_for_it(saved_llama: Path) -> None:
    config = RuntimeConfig(saved_llama, device="cuda:0")
    # What measuring the machine takes, and what earlier tests left, would hide its peak.
    RuntimeLoader().plan(config)
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with RuntimeLoader().load(config) as runtime:
        runtime.complete(QUESTION, ANSWER)
        peak = runtime.truth.find("GPU memory at most")
        assert peak is not None
        assert peak.measured <= torch.cuda.max_memory_allocated() - before
        assert peak.measured > runtime.memory().accelerator_weights_bytes
        assert runtime.truth.find("GPU memory for weights") is not None
        assert len(remembered(runtime.plan).own["token"]) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_peak_that_an_earlier_one_hides_is_not_shown(saved_llama: Path) -> None:
    larger = torch.empty(1 << 30, dtype=torch.uint8, device="cuda:0")
    del larger
    with RuntimeLoader().load(RuntimeConfig(saved_llama, device="cuda:0")) as runtime:
        assert runtime.truth.find("GPU memory at most") is None
