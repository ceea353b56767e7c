"""What the codecs cost on a real model and real text; tests/bench/kv_quality.py has the figures."""

from __future__ import annotations

import pytest

from ollm_widgets import LoadedRuntime
from ollm_widgets.kv.codecs import codec_named
from tests.kv.codecs.quality import TeacherForced, english_ids

CONTEXT, POSITIONS = 512, 512


@pytest.fixture(scope="module")
def forced(runtime: LoadedRuntime) -> TeacherForced:
    texts = english_ids(runtime.tokenizer, CONTEXT + POSITIONS, windows=1)
    return TeacherForced(runtime.model, texts, CONTEXT)


# Of a model far smaller, and so more easily disturbed, than those whose cache does not fit.
@pytest.mark.parametrize(
    ("name", "most_kl", "most_perplexity_change", "least_same"),
    [("int8", 2e-4, 0.002, 0.98), ("int4", 0.01, 0.02, 0.93)],
)
def test_next_tokens_are_as_likely_as_with_an_exact_cache(
    forced: TeacherForced,
    name: str,
    most_kl: float,
    most_perplexity_change: float,
    least_same: float,
) -> None:
    drift = forced.drift(codec_named(name))
    assert len(drift.kl) == POSITIONS
    assert 1 < drift.exact_perplexity < 30
    assert drift.kl.mean() <= most_kl
    assert abs(drift.perplexity_change) <= most_perplexity_change
    assert drift.same_best >= least_same
