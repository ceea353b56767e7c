from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest
import torch
from IPython.lib.pretty import pretty
from transformers import PreTrainedModel

from ollm_widgets import settings
from ollm_widgets.errors import Cancelled, ConfigError
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.planning.ids import KVStrategyId
from ollm_widgets.planning.kv_presets import preset_of
from ollm_widgets.runtime import comparing
from ollm_widgets.runtime.comparing import compare_kv
from ollm_widgets.runtime.comparison import ComparisonProgress, KVComparison, KVComparisonRow
from tests.models.architectures import ARCHITECTURES, build

STRATEGIES: tuple[KVStrategyId, ...] = get_args(KVStrategyId)
ON_DISK = tuple(each for each in STRATEGIES if preset_of(each).uses_disk)
PROMPT, NEW = 200, 5
# Keys and values of one token of the tiny Llama: 2 layers, 2 heads, 8 wide, float32.
TOKEN_BYTES = 2 * 2 * 2 * 8 * 4


def tiny(model_type: str) -> PreTrainedModel:
    architecture = next(each for each in ARCHITECTURES if each.model_type == model_type)
    torch.manual_seed(0)
    return build(architecture).eval().float()


@pytest.fixture(scope="module", autouse=True)
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.CACHE_DIR_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def prompt() -> torch.Tensor:
    return torch.randint(3, 60, (1, PROMPT), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def compared(llama: PreTrainedModel, prompt: torch.Tensor) -> KVComparison:
    return compare_kv(llama, prompt, new_tokens=NEW, window_tokens=32, name="tiny")


def row_of(comparison: KVComparison, strategy: KVStrategyId) -> KVComparisonRow:
    return next(row for row in comparison.rows if row.strategy == strategy)


# ---------------------------------------------------------------------- the figures


def test_every_strategy_has_a_row_with_figures(compared: KVComparison) -> None:
    assert tuple(row.strategy for row in compared.rows) == STRATEGIES
    for row in compared.rows:
        assert row.error == ""
        assert row.time_to_first_token_s > 0
        assert row.seconds_per_token > 0
    assert (compared.prompt_tokens, compared.new_tokens) == (PROMPT, NEW)
    assert compared.full_bytes == (PROMPT + NEW - 1) * TOKEN_BYTES


def test_lossless_strategies_are_exact_and_the_others_say_how_far_off_they_are(
    compared: KVComparison,
) -> None:
    for row in compared.rows:
        if preset_of(row.strategy).lossless:
            assert (row.kl_mean_nats, row.kl_max_nats, row.agreement) == (0, 0, 1)
        else:
            assert 0 < row.kl_mean_nats <= row.kl_max_nats


def test_each_row_shows_the_tiers_after_the_prompt(compared: KVComparison) -> None:
    resident = row_of(compared, "resident").memory
    assert resident.tokens == PROMPT
    assert resident.accelerator_bytes == PROMPT * TOKEN_BYTES
    for strategy in ON_DISK:
        memory = row_of(compared, strategy).memory
        assert memory.tokens == PROMPT
        assert memory.hot_tokens < PROMPT
        assert memory.host_bytes + memory.disk_bytes > 0
    window = row_of(compared, "sliding-window-ring-buffer").memory
    assert window.accelerator_bytes < resident.accelerator_bytes / 4


def test_a_budget_that_is_given_is_used(llama: PreTrainedModel, prompt: torch.Tensor) -> None:
    ample = KVBudget(10**9, 10**9)
    whole = compare_kv(llama, prompt, ["paged"], new_tokens=2, budget=ample)
    (row,) = whole.rows
    assert row.memory.hot_tokens == PROMPT
    assert whole.budget_bytes == 10**9


def test_divergence_and_agreement_are_those_of_teacher_forcing(
    llama: PreTrainedModel, prompt: torch.Tensor
) -> None:
    window = 16
    compared = compare_kv(
        llama, prompt, ["sliding-window-ring-buffer"], new_tokens=NEW, window_tokens=window
    )
    with torch.inference_mode():
        ids = prompt
        for _ in range(NEW):
            ids = torch.cat((ids, llama(ids).logits[:, -1:].argmax(-1)), dim=1)
        full = llama(ids[:, :-1]).logits[0, PROMPT - 1 :].double()
        at = torch.arange(ids.shape[1] - 1)
        sees = (at[:, None] >= at) & (at[:, None] - at < window)
        bounded = llama(ids[:, :-1], attention_mask=sees[None, None]).logits[0, PROMPT - 1 :]
    p, q = full.log_softmax(-1), bounded.double().log_softmax(-1)
    expected = (p.exp() * (p - q)).sum(-1)
    (row,) = compared.rows
    assert row.kl_mean_nats == pytest.approx(float(expected.mean()), rel=1e-3)
    assert row.kl_max_nats == pytest.approx(float(expected.max()), rel=1e-3)
    assert row.agreement == float((bounded.argmax(-1) == full.argmax(-1)).double().mean())


def test_an_end_of_text_does_not_end_the_comparison(prompt: torch.Tensor) -> None:
    model = tiny("llama")
    with torch.inference_mode():
        first = int(model(prompt).logits[0, -1].argmax())
    model.generation_config.eos_token_id = first
    compared = compare_kv(model, prompt, ["resident"], new_tokens=NEW)
    assert compared.full_bytes == (PROMPT + NEW - 1) * TOKEN_BYTES


def test_one_new_token_is_enough(llama: PreTrainedModel, prompt: torch.Tensor) -> None:
    (row,) = compare_kv(llama, prompt, ["resident"], new_tokens=1).rows
    assert row.seconds_per_token == 0
    assert row.agreement == 1


@pytest.mark.parametrize("model_type", ["gemma2", "qwen3_next", "deepseek_v3", "gpt2"])
def test_models_with_other_layers_are_compared_and_what_they_refuse_is_said(
    model_type: str,
) -> None:
    ids = torch.randint(3, 60, (1, 100), generator=torch.Generator().manual_seed(2))
    compared = compare_kv(tiny(model_type), ids, new_tokens=3, window_tokens=8)
    for row in compared.rows:
        if preset_of(row.strategy).lossless and not row.error:
            assert (row.kl_max_nats, row.agreement) == (0, 1), row
    assert row_of(compared, "paged").error == ""


def test_what_one_strategy_refuses_does_not_keep_the_others_from_running() -> None:
    ids = torch.randint(3, 60, (1, 100), generator=torch.Generator().manual_seed(2))
    compared = compare_kv(
        tiny("gemma3_text"),
        ids,
        ["sliding-window-ring-buffer", "resident"],
        new_tokens=2,
        window_tokens=8,
    )
    refused, resident = compared.rows
    assert "needs layers with full attention" in refused.error
    assert resident.error == ""
    assert compared.as_dicts()[0] == {"strategy": refused.strategy, "error": refused.error}


# ---------------------------------------------------------------------- memory and files


def test_each_cache_is_gone_before_the_next_is_made(
    llama: PreTrainedModel,
    prompt: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[weakref.ref[object]] = []
    build_cache = comparing.build_cache

    def watched(*args: object, **options: object) -> object:
        assert not any(ref() is not None and ref().layers for ref in made)  # type: ignore[union-attr]
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        cache = build_cache(*args, **options)  # type: ignore[arg-type]
        made.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(comparing, "build_cache", watched)
    compare_kv(llama, prompt, new_tokens=2, folder=tmp_path)
    assert len(made) == len(STRATEGIES) + 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_model_attends_as_before(
    llama: PreTrainedModel, prompt: torch.Tensor, compared: KVComparison
) -> None:
    assert compared.rows
    before = llama.config._attn_implementation
    with torch.inference_mode():
        expected = llama(prompt).logits
        compare_kv(llama, prompt, new_tokens=2)
        assert torch.equal(llama(prompt).logits, expected)
    assert llama.config._attn_implementation == before


# ---------------------------------------------------------------------- progress and cancel


def test_progress_tells_the_strategy_and_its_tokens(
    llama: PreTrainedModel, prompt: torch.Tensor
) -> None:
    told: list[ComparisonProgress] = []
    compare_kv(llama, prompt, ["resident", "paged"], new_tokens=2, progress=told.append)
    assert [(each.strategy, each.done, each.tokens) for each in told] == [
        (None, 0, 1),
        (None, 0, 2),
        ("resident", 1, 1),
        ("resident", 1, 2),
        ("paged", 2, 1),
        ("paged", 2, 2),
    ]
    assert str(told[-1]) == "3 of 3, paged: 2 of 2 tokens"


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_cancel_ends_it_between_two_tokens_and_leaves_nothing_behind(
    llama: PreTrainedModel, prompt: torch.Tensor, tmp_path: Path, after: int
) -> None:
    cancel, told = threading.Event(), []

    def stop(progress: ComparisonProgress) -> None:
        told.append(progress)
        if len(told) == after:
            cancel.set()

    with pytest.raises(Cancelled):
        compare_kv(
            llama, prompt, ["paged"], new_tokens=4, folder=tmp_path, cancel=cancel, progress=stop
        )
    assert len(told) == after
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strategies": ["paged", "page"]}, "'page' is none"),
        ({"new_tokens": 0}, "new_tokens: 0 is too few"),
        ({"prompt_ids": torch.ones(2, 4, dtype=torch.long)}, r"must be \[1, tokens\]"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    llama: PreTrainedModel, prompt: torch.Tensor, options: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        compare_kv(**{"model": llama, "prompt_ids": prompt, **options})  # type: ignore[arg-type]


# ---------------------------------------------------------------------- what a person sees


def made_up() -> KVComparison:
    return KVComparison(
        rows=(
            KVComparisonRow("resident", KVStats(accelerator_bytes=40 * 2**20), 2.0, 0.05, 0, 0, 1),
            KVComparisonRow(
                "paged",
                KVStats(accelerator_bytes=10 * 2**20, disk_bytes=30 * 2**20),
                2.5,
                0.06,
                0,
                0,
                1,
            ),
            KVComparisonRow(
                "quantized-cold-tier",
                KVStats(accelerator_bytes=12 * 2**20, host_bytes=9 * 2**20),
                2.4,
                0.055,
                0.00123,
                0.00456,
                31 / 32,
            ),
            KVComparisonRow("sliding-window-ring-buffer", error="It needs <full> attention."),
        ),
        model="SmolLM2",
        machine="a machine",
        device_tier="RAM",
        prompt_tokens=1500,
        new_tokens=32,
        full_bytes=41 * 2**20,
        budget_bytes=10 * 2**20,
    )


def test_a_terminal_shows_aligned_numbers_with_units_and_the_best_in_words() -> None:
    lines = pretty(made_up()).splitlines()
    assert lines[0] == "KV cache strategies: SmolLM2"
    assert " ".join(lines[1:3]) == (
        "1,500 tokens read, 32 written; 41 MiB of keys and values in full precision, of which "
        "10 MiB may stay hot in RAM"
    )
    table = lines[3:]
    assert " ".join(table[0].split()) == (
        "Strategy Hot Cold in RAM On disk First token A token KL mean KL max Same"
    )
    assert table[1].split() == ["MiB"] * 3 + ["s", "ms", "nats", "nats", "%"]
    figures = [line for line in table[2:6] if line[2] != " "]
    assert {len(line) for line in (table[0], table[1], *figures)} == {len(table[0])}
    assert figures[0].split() == ["resident", "40.0", "0", "0", "2.00", "50.00", "0", "0", "100"]
    assert table[3] == "      soonest answer, fastest tokens"
    assert table[5] == "      least hot memory"
    assert table[6].split()[-3:] == ["0.0012", "0.0046", "97"]
    assert table[7:9] == ["  sliding-window-ring-buffer", "      It needs <full> attention."]


class Cells(HTMLParser):
    """Collects the cells of a table and their classes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str]]] = []
        self._open = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._open = True
            self.rows[-1].append(("", dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open:
            text, kind = self.rows[-1][-1]
            self.rows[-1][-1] = (f"{text} {data}".strip(), kind)


def test_a_notebook_shows_a_table_whose_best_values_are_marked_and_named() -> None:
    head, resident, paged, quantized, refused = Cells(made_up().to_html()).rows
    assert head[1] == ("Hot MiB", "oc-number")
    assert resident[0][0] == "resident soonest answer, fastest tokens"
    assert resident[4] == ("2.00", "oc-number oc-best")
    assert paged[1] == ("10.0", "oc-number oc-best")
    assert "oc-best" not in " ".join(kind for _, kind in quantized)
    assert refused[0][0] == "sliding-window-ring-buffer It needs <full> attention."
    assert "<full>" not in made_up().to_html()


def test_markdown_is_a_table_too() -> None:
    lines = made_up().to_markdown().splitlines()
    assert lines[4].startswith("| Strategy | Hot MiB |")
    assert lines[5].startswith("|---|---:|")
    assert lines[7].startswith("| paged (least hot memory) | **10.0** |")


def test_a_data_frame_is_made_of_its_dictionaries() -> None:
    first, *_rest, refused = made_up().as_dicts()
    assert first["device_bytes"] == 40 * 2**20
    assert first["seconds_per_token"] == 0.05
    assert refused["error"] == "It needs <full> attention."


def test_where_all_are_alike_none_is_the_best() -> None:
    row = KVComparisonRow("resident", KVStats(accelerator_bytes=1000), 1.0, 0.5, 0, 0, 1)
    alike = KVComparison((row, row), "m", "here", "RAM", 1, 1, 1, None)
    assert {remark.remark for remark in alike.table().rows} == {""}
