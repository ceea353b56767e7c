"""The settings of region `Chat`: how the next answers are generated."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.protocol.talk import SamplingField, SamplingPresetView, SamplingView
from ollm_widgets.session.sampling import KINDS, PRESETS, Sampling

if TYPE_CHECKING:
    from ollm_widgets.planning.generation import GenerationConfig
    from ollm_widgets.runtime.interface import Runtime

_Texts = tuple[tuple[str, str], ...]  # by the name of a field
_Figures = tuple[tuple[str, float], ...]

_ABOUT: dict[str, tuple[str, str]] = {
    "temperature": (
        "Temperature",
        "0 always takes the likeliest token; more makes answers differ.",
    ),
    "top_p": ("Top p", "Samples from the likeliest tokens that make up this share, up to 1."),
    "top_k": ("Top k", "Samples from this many of the likeliest tokens; 0 is all of them."),
    "min_p": ("Min p", "Leaves out tokens below this share of the likeliest one's probability."),
    "repetition_penalty": ("Repetition penalty", "Above 1 makes tokens used before less likely."),
    "max_new_tokens": ("Max new tokens", "The most tokens of an answer."),
    "seed": ("Seed", "The same number gives the same answer again."),
    "stop": ("Stop strings", "One a line; an answer ends where it would write one of them."),
}
_ONLY_SAMPLED = ("top_p", "top_k", "min_p", "seed")
_ALWAYS = {"temperature": "0", "max_new_tokens": "500", "seed": "random", "stop": "none"}
_UNSAID = {"top_k": "50"}  # what transformers takes where a model says nothing
_OFF = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


def view_sampling(sampling: Sampling, runtime: Runtime | None) -> SamplingView:
    """Every field with what applies, and why some of them do not."""
    return _view(
        sampling.generation,
        tuple(sampling.unapplied.items()),
        tuple(sampling.errors.items()),
        None if runtime is None else _own(runtime),
    )


# The view stays as it is, while it is looked at with each batch of an answer's text.
@functools.lru_cache(maxsize=4)
def _view(
    generation: GenerationConfig, unapplied: _Texts, errors: _Texts, own: _Figures | None
) -> SamplingView:
    sampling = Sampling(generation)
    sampling.unapplied, sampling.errors = dict(unapplied), dict(errors)
    exact = generation.temperature == 0
    active = sampling.preset
    return SamplingView(
        fields=tuple(
            SamplingField(
                name=name,
                label=_ABOUT[name][0],
                kind=kind,
                value=sampling.text(name),
                automatic=_automatic(name, own),
                help=_ABOUT[name][1],
                unused=(
                    "Changes nothing at temperature 0." if exact and name in _ONLY_SAMPLED else ""
                ),
                error=sampling.errors.get(name, ""),
            )
            for name, kind in KINDS.items()
        ),
        presets=tuple(
            SamplingPresetView(id=one.id, title=one.title, help=one.help, active=one is active)
            for one in PRESETS
        ),
        summary=active.title if active else f"Temperature {sampling.text('temperature')}",
    )


def _automatic(name: str, own: _Figures | None) -> str:
    """What applies where nothing is typed: what the model's own files say, where they do."""
    if name in _ALWAYS:
        return _ALWAYS[name]
    if own is None:
        return "the model's"
    figure = dict(own).get(name)
    if figure is None:
        return _UNSAID.get(name, "off")
    return "off" if figure == _OFF[name] else f"{figure:g}, the model's"


def _own(runtime: Runtime) -> _Figures:
    try:
        return tuple(runtime.chat_traits.sampling.items())
    except RuntimeClosedError:  # it leaves while it is looked at
        return ()
