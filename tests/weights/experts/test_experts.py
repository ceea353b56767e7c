"""Streamed experts give the bits of whole ones, from wherever they come."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ollm_widgets.errors import (
    Cancelled,
    CheckpointChangedError,
    SpecializationLoadError,
    WeightReadError,
)
from ollm_widgets.weights.experts.sources import ExpertTensor, HostExperts
from ollm_widgets.weights.experts.streaming import ExpertLayer, ExpertStreaming
from ollm_widgets.weights.experts.traffic import ExpertTraffic
from tests.models.architectures import Architecture
from tests.weights.streamed_experts import (
    MIXTURES,
    ORIGINS,
    Listed,
    Origin,
    disk_sources,
    expert_bytes,
    experts_of,
    host_sources,
    streamed,
    whole_model,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU = torch.device("cpu")
SHORT = torch.arange(3, 9)[None]
LONG = (torch.arange(60) * 7 % 61 + 2)[None]
BATCH = torch.tensor([[0, 0, 5, 9, 11, 4], [2, 3, 4, 5, 6, 7], [0, 9, 8, 3, 2, 33]])


@pytest.fixture(scope="module", params=MIXTURES, ids=str)
def mixture(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, Path]:
    architecture: Architecture = request.param
    model = whole_model(architecture)
    folder = tmp_path_factory.mktemp(architecture.model_type)
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    model = whole_model(next(each for each in MIXTURES if each.model_type == "qwen3_moe"))
    folder = tmp_path_factory.mktemp("qwen")
    model.save_pretrained(folder)
    return model, folder


def tokens_of(model: PreTrainedModel, prompt: torch.Tensor, count: int = 8) -> torch.Tensor:
    made: torch.Tensor = model.generate(
        prompt,
        attention_mask=(prompt != 0).long(),
        do_sample=False,
        min_new_tokens=count,
        max_new_tokens=count,
    )
    return made


def logits_of(model: PreTrainedModel, prompt: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(prompt, attention_mask=(prompt != 0).long()).logits
    return logits


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_logits_and_greedy_tokens_are_those_of_the_whole_model(
    mixture: tuple[PreTrainedModel, Path], origin: Origin, implementation: str
) -> None:
    model, folder = mixture
    with streamed(model, origin, folder, slots=6, cached=3) as copy:
        model.set_experts_implementation(implementation)
        copy.model.set_experts_implementation(implementation)
        for prompt in (SHORT, BATCH):
            assert torch.equal(logits_of(copy.model, prompt), logits_of(model, prompt))
            assert torch.equal(tokens_of(copy.model, prompt), tokens_of(model, prompt))
        assert torch.equal(logits_of(copy.model, LONG), logits_of(model, LONG))


@pytest.mark.parametrize("origin", ORIGINS[1:])
@pytest.mark.parametrize("cached", [0, 1, 5, 16])
def test_a_cache_of_any_size_changes_what_moves_and_nothing_else(
    qwen: tuple[PreTrainedModel, Path], origin: Origin, cached: int
) -> None:
    model, folder = qwen
    model.set_experts_implementation("eager")
    with streamed(model, origin, folder, slots=3, cached=cached) as copy:
        assert copy.streaming.cached_experts == cached
        for _ in range(3):
            assert torch.equal(tokens_of(copy.model, SHORT), tokens_of(model, SHORT))
            copy.streaming.rebalance()
        before = copy.streaming.traffic()
        tokens_of(copy.model, SHORT)
        after = copy.streaming.traffic()
        hits, misses = after.hits - before.hits, after.misses - before.misses
        assert hits + misses > 0
        assert (hits > 0) == (cached > 0)
        assert (misses == 0) == (cached == 16)
        sizes = sum(tensor.row_bytes for tensor in host_sources(model)[0].tensors)
        assert after.moved_bytes - before.moved_bytes == misses * sizes


@pytest.mark.parametrize("origin", ORIGINS[1:])
@pytest.mark.parametrize("whole_layers", [0, 2])
def test_a_long_prompt_passes_without_room_for_a_whole_layer_too(
    mixture: tuple[PreTrainedModel, Path], origin: Origin, whole_layers: int
) -> None:
    model, folder = mixture
    model.set_experts_implementation("eager")
    with streamed(model, origin, folder, slots=5, whole_layers=whole_layers) as copy:
        copy.model.set_experts_implementation("eager")
        # In pieces the matrix products have other shapes, and so another rounding.
        noise = {"rtol": 1e-3, "atol": 1e-3} if not whole_layers else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(logits_of(copy.model, LONG), logits_of(model, LONG), **noise)
        assert torch.equal(tokens_of(copy.model, LONG), tokens_of(model, LONG))


@pytest.mark.parametrize("origin", ORIGINS)
def test_half_precision_has_the_same_bits_too(
    qwen: tuple[PreTrainedModel, Path], origin: Origin, tmp_path: Path
) -> None:
    model = whole_model(
        next(each for each in MIXTURES if each.model_type == "gpt_oss"), torch.bfloat16
    )
    model.save_pretrained(tmp_path)
    with streamed(model, origin, tmp_path, slots=6) as copy:
        for prompt in (SHORT, BATCH):
            assert torch.equal(logits_of(copy.model, prompt), logits_of(model, prompt))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_choice_of_experts_gives_the_bits_of_the_whole_module(
    qwen: tuple[PreTrainedModel, Path], data: st.DataObject
) -> None:
    model, folder = qwen
    origin = data.draw(st.sampled_from(("addresses", "host list")))
    implementation = data.draw(st.sampled_from(("eager", "batched_mm", "grouped_mm")))
    model.set_experts_implementation(implementation)
    chosen = data.draw(st.integers(1, 4))
    tokens = data.draw(st.integers(1, 6))
    row = st.lists(st.integers(0, 7), min_size=chosen, max_size=chosen, unique=True)
    rows = data.draw(st.lists(row, min_size=tokens, max_size=tokens))
    kind = data.draw(st.sampled_from((torch.int64, torch.int32)))
    index = torch.tensor(rows, dtype=torch.int64)
    hidden = torch.randn(tokens, 32, generator=torch.Generator().manual_seed(len(rows)))
    weights = torch.rand(tokens, chosen, generator=torch.Generator().manual_seed(chosen))
    whole = experts_of(model)[0][1]
    with (
        streamed(model, origin, folder, slots=data.draw(st.integers(4, 9)), cached=2) as copy,
        torch.no_grad(),
    ):
        expected = whole(hidden, index, weights)
        # one_hot in the eager implementation takes int64 alone.
        own = index if implementation == "eager" else index.to(kind)
        for _ in range(2):
            assert torch.equal(copy.modules[0](hidden, own, weights), expected)
            copy.streaming.rebalance()


@pytest.mark.parametrize("origin", ORIGINS[1:])
def test_a_number_that_stands_for_no_expert_adds_nothing(
    qwen: tuple[PreTrainedModel, Path], origin: Origin
) -> None:
    model, folder = qwen
    model.set_experts_implementation("eager")
    index = torch.tensor([[1, 8], [8, 8], [5, 1]])
    hidden, weights = torch.randn(3, 32), torch.rand(3, 2)
    with streamed(model, origin, folder, slots=6) as copy, torch.no_grad():
        try:
            expected = experts_of(model)[0][1](hidden, index, weights)
        except RuntimeError:
            pytest.skip("this version of transformers has no number for no expert")
        assert torch.equal(copy.modules[0](hidden, index, weights), expected)
        assert torch.equal(copy.modules[0](hidden[1:2], index[1:2], weights[1:2]), expected[1:2])


@pytest.mark.parametrize("origin", ORIGINS[1:])
def test_arguments_may_be_named_and_no_tokens_give_no_rows(
    qwen: tuple[PreTrainedModel, Path], origin: Origin
) -> None:
    model, folder = qwen
    index = torch.tensor([[6, 2]])
    hidden, weights = torch.randn(1, 32), torch.rand(1, 2)
    with streamed(model, origin, folder) as copy, torch.no_grad():
        run = copy.modules[0]
        expected = experts_of(model)[0][1](hidden, index, weights)
        assert torch.equal(run(hidden, top_k_weights=weights, top_k_index=index), expected)
        assert run(hidden[:0], index[:0], weights[:0]).shape == (0, 32)


@pytest.mark.parametrize("origin", ORIGINS[1:])
def test_chunks_of_a_prompt_do_not_move_an_expert_twice(
    qwen: tuple[PreTrainedModel, Path], origin: Origin
) -> None:
    model, folder = qwen
    index = torch.arange(8).repeat(6).view(16, 3)
    hidden, weights = torch.randn(16, 32), torch.rand(16, 3)
    with streamed(model, origin, folder, slots=3) as copy, torch.no_grad():
        for start in range(0, 16, 4):
            part = slice(start, start + 4)
            copy.modules[0](hidden[part], index[part], weights[part])
        assert copy.streaming.traffic().misses == 8
        copy.modules[1](hidden, index, weights)
        copy.modules[0](hidden, index, weights)
        assert copy.streaming.traffic().misses == 24


def test_only_the_chosen_experts_move(qwen: tuple[PreTrainedModel, Path]) -> None:
    model, folder = qwen
    index = torch.tensor([[6, 2, 3]])
    sizes = sum(tensor.row_bytes for tensor in host_sources(model)[0].tensors)
    for origin in ORIGINS[1:]:
        with streamed(model, origin, folder, slots=3) as copy, torch.no_grad():
            copy.modules[0](torch.randn(1, 32), index, torch.rand(1, 3))
            assert copy.streaming.traffic() == ExpertTraffic(0, 3, 3 * sizes)


class FailsOnce(Listed):
    """A source whose n-th fetch writes a part and then fails."""

    def __init__(self, source: HostExperts, fails: int) -> None:
        super().__init__(source)
        self._left = fails

    def fetch(
        self,
        experts: Sequence[int],
        rows: Sequence[int],
        out: Mapping[str, torch.Tensor],
        cancel: threading.Event | None = None,
    ) -> None:
        self._left -= 1
        if self._left == 0:
            for tensor in out.values():
                tensor[rows[0]].fill_(float("nan"))
            raise OSError("The disk is tired.")
        super().fetch(experts, rows, out, cancel)


@pytest.mark.parametrize("fails", range(1, 9))
def test_an_error_of_a_read_reaches_the_caller_and_the_next_call_works(
    qwen: tuple[PreTrainedModel, Path], fails: int
) -> None:
    model, folder = qwen
    model.set_experts_implementation("eager")
    sources = [FailsOnce(each, 99 if n else fails) for n, each in enumerate(host_sources(model))]
    with streamed(model, "disk", folder, slots=3, cached=4, sources=sources) as copy:
        with pytest.raises(OSError, match="tired"):
            tokens_of(copy.model, SHORT, 9)
        assert all(p.is_meta for each in copy.modules for p in each.parameters())
        assert all(each.num_experts == 8 for each in copy.modules)
        assert torch.equal(tokens_of(copy.model, SHORT), tokens_of(model, SHORT))


def test_a_checkpoint_that_was_cut_short_is_named_in_the_error(
    qwen: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    model, _ = qwen
    model.save_pretrained(tmp_path)
    with streamed(model, "disk", tmp_path) as copy:
        assert torch.equal(tokens_of(copy.model, SHORT), tokens_of(model, SHORT))
        file = tmp_path / "model.safetensors"
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size // 4)
        with pytest.raises((WeightReadError, CheckpointChangedError), match=r"model\.safetensors"):
            tokens_of(copy.model, SHORT)
        assert all(p.is_meta for each in copy.modules for p in each.parameters())


def test_a_cancel_ends_a_call_and_the_next_one_works(qwen: tuple[PreTrainedModel, Path]) -> None:
    model, folder = qwen
    with streamed(model, "disk", folder, cached=2) as copy:
        cancel = threading.Event()
        cancel.set()
        copy.streaming.cancel_with(cancel)
        with pytest.raises(Cancelled):
            logits_of(copy.model, LONG)
        copy.streaming.cancel_with(None)
        assert torch.equal(logits_of(copy.model, LONG), logits_of(model, LONG))


@pytest.mark.parametrize("origin", ORIGINS)
def test_removing_makes_the_modules_what_they_were(
    qwen: tuple[PreTrainedModel, Path], origin: Origin
) -> None:
    model, folder = qwen
    with streamed(model, origin, folder) as copy:
        copy.streaming.remove()
        before = [dict(each.__dict__) for each in copy.modules]
        own = [dict(each._parameters) for each in copy.modules]
        copy.streaming.install()
        copy.streaming.install()
        tokens_of(copy.model, SHORT)
        copy.streaming.remove()
        for module, attributes, parameters in zip(copy.modules, before, own, strict=True):
            assert module.__dict__.keys() == attributes.keys()
            assert all(module._parameters[name] is each for name, each in parameters.items())
            assert "forward" not in module.__dict__


def test_a_forward_that_somebody_else_replaced_is_kept(qwen: tuple[PreTrainedModel, Path]) -> None:
    model, _ = qwen
    (_, module, _), *_ = experts_of(model)
    calls: list[int] = []
    whole = module.forward

    def counted(*args: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        result: torch.Tensor = whole(*args)
        return result

    module.forward = counted  # type: ignore[method-assign]
    try:
        source = host_sources(model)[0]
        streaming = ExpertStreaming(
            [ExpertLayer(module, source)], device=CPU, slots=4, in_place=False
        )
        streaming.install()
        with torch.no_grad():
            module(torch.randn(1, 32), torch.tensor([[1, 2]]), torch.rand(1, 2))
        streaming.close()
        assert calls == [1]
        assert module.forward is counted
    finally:
        del module.__dict__["forward"]


@pytest.mark.parametrize("origin", ORIGINS)
def test_closing_frees_the_memory_it_counted(
    qwen: tuple[PreTrainedModel, Path], origin: Origin
) -> None:
    model, folder = qwen
    with streamed(model, origin, folder, slots=3, cached=2) as copy:
        before = copy.streaming.device_bytes
        logits_of(copy.model, LONG)
        grown = copy.streaming.device_bytes
        if origin == "in place":
            assert before == grown
        else:
            whole = copy.streaming.workspace.whole_bytes_of(host_sources(model))
            assert before >= 5 * expert_bytes(host_sources(model)) > 0
            assert before + whole <= grown <= before + whole + 64
            copy.streaming.workspace.free_whole_layers()
            assert copy.streaming.device_bytes == before
        copy.streaming.close()
        copy.streaming.close()
        assert copy.streaming.device_bytes == 0
        assert all(p.is_meta for each in copy.modules for p in each.parameters())


def test_experts_that_cannot_be_renumbered_stream_as_whole_layers(
    qwen: tuple[PreTrainedModel, Path],
) -> None:
    model, folder = qwen
    model.set_experts_implementation("eager")
    index, hidden, weights = torch.tensor([[6, 2]]), torch.randn(1, 32), torch.rand(1, 2)
    for origin in ORIGINS[1:]:
        with streamed(model, origin, folder) as plain:
            plain.streaming.close()
            module = plain.modules[0]
            module.register_buffer("scale", torch.ones(8))
            layer = ExpertLayer(module, host_sources(model)[0])
            with pytest.raises(SpecializationLoadError, match="renumbered"):
                ExpertStreaming([layer], device=CPU, slots=4, whole_layers=0, in_place=False)
            streaming = ExpertStreaming([layer], device=CPU, slots=4, in_place=False)
            assert not streaming.capturable
            streaming.install()
            with torch.no_grad():
                expected = experts_of(model)[0][1](hidden, index, weights)
                assert torch.equal(module(hidden, index, weights), expected)
            streaming.close()


@pytest.mark.parametrize("origin", ORIGINS)
def test_memory_taken_in_inference_mode_serves_outside_of_it(
    qwen: tuple[PreTrainedModel, Path], origin: Origin
) -> None:
    model, folder = qwen
    with streamed(model, origin, folder, slots=3, cached=2) as copy:
        with torch.inference_mode():
            copy.model(LONG)
            copy.model(SHORT)
            copy.streaming.rebalance()
        assert torch.equal(logits_of(copy.model, LONG), logits_of(model, LONG))
        assert torch.equal(tokens_of(copy.model, SHORT), tokens_of(model, SHORT))
        copy.streaming.rebalance()


def test_a_module_without_the_parameters_of_its_experts_is_refused() -> None:
    source = HostExperts({"weight": torch.zeros(4, 3, 2)})
    with pytest.raises(SpecializationLoadError, match="weight"):
        ExpertStreaming([ExpertLayer(nn.Linear(2, 3), source)], device=CPU, slots=4)


def test_room_for_fewer_experts_than_a_token_chooses_is_an_error(
    qwen: tuple[PreTrainedModel, Path],
) -> None:
    model, folder = qwen
    with (
        streamed(model, "addresses", folder, slots=2, whole_layers=0) as copy,
        pytest.raises(ValueError, match="chooses 3 experts"),
    ):
        logits_of(copy.model, SHORT)


def test_experts_of_unequal_number_are_no_source() -> None:
    with pytest.raises(ValueError, match="first dimension"):
        HostExperts({"a": torch.zeros(4, 2), "b": torch.zeros(3, 2)})


def test_a_source_knows_its_rows() -> None:
    source = HostExperts({"a": torch.zeros(4, 2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)})
    assert source.tensors == (
        ExpertTensor("a", torch.float32, (2, 3)),
        ExpertTensor("b", torch.bfloat16, ()),
    )
    assert [tensor.row_bytes for tensor in source.tensors] == [24, 2]


def test_the_rows_of_a_checkpoint_are_those_of_the_module(
    mixture: tuple[PreTrainedModel, Path],
) -> None:
    model, folder = mixture
    with ExitStack() as stack:
        for disk, host in zip(
            disk_sources(model, folder, stack)[0], host_sources(model), strict=True
        ):
            assert disk.tensors == host.tensors
            out = {each.name: torch.zeros(4, *each.row_shape) for each in disk.tensors}
            disk.fetch([5, 0, 7], [3, 0, 1], out)
            for name, stacked in host.stacked.items():
                assert torch.equal(out[name][[3, 0, 1]], stacked[[5, 0, 7]])
                assert not out[name][2].any()
