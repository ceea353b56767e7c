from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.kv.window import window_cache
from ollm_widgets.kv.window.ring import DroppedTokensError
from tests.kv.window.reference import assert_same, expected, feed, tiny, visible

MOST = 30


@st.composite
def masks(draw: st.DrawFn, batch: int) -> torch.Tensor:
    """Left padding of some rows, and now and then a gap; the last token is always real."""
    real = torch.ones(batch, MOST, dtype=torch.long)
    for row in range(batch):
        real[row, : draw(st.integers(0, 12))] = 0
        for gap in draw(st.lists(st.integers(0, MOST - 2), max_size=3)):
            real[row, gap] = 0
    return real


steps = st.lists(st.one_of(st.integers(1, 12), st.integers(-8, 0)), min_size=1, max_size=14)


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    batch=st.integers(1, 3),
    window=st.integers(1, 20),
    sinks=st.integers(0, 5),
    schedule=steps,
    recording=st.booleans(),
)
def test_any_schedule_of_passes_and_takings_back_is_exact(
    data: st.DataObject,
    batch: int,
    window: int,
    sinks: int,
    schedule: list[int],
    recording: bool,
) -> None:
    model = tiny("llama")
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 60, (batch, MOST), generator=generator)
    real = data.draw(masks(batch))
    wanted = expected(model, ids, real, visible(real, window, sinks))
    past = window_cache(model, window, sinks)
    if recording:
        past.activate_past_recording()
    for step in [*schedule, MOST]:
        start = past.get_seq_length()
        if step > 0:
            end = min(start + step, MOST)
            if end > start:
                found = feed(model, past, ids[:, start:end], real[:, :end], [step])
                told = real[:, start:end]
                if told.any():
                    assert_same(found, wanted[:, start:end], told)
            continue
        always = past.is_croppable and not recording
        try:
            past.crop(step)
        except DroppedTokensError:
            assert not always
            assert past.get_seq_length() == start
            continue
        left = past.get_seq_length()
        assert left == max(start + step, 0)
        # What comes instead is another text, and begins elsewhere.
        ids[:, left:] = torch.randint(3, 60, (batch, MOST - left), generator=generator)
        real = torch.cat([real[:, :left], data.draw(masks(batch))[:, left:]], 1)
        wanted = expected(model, ids, real, visible(real, window, sinks))
