"""Errors as they cross from one process to another."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ollm_widgets import errors
from ollm_widgets.errors import BackendsFailedError, ConfigError, OllmError
from ollm_widgets.kv.window.ring import DroppedTokensError

_GIVEN: dict[str, Any] = {
    "field": "device",
    "message": "3 of 4 did not come.",
    "hint": "Try again.",
    "repo_id": "org/name",
    "folder": Path("models/name"),
    "gaps": ("model.safetensors",),
    "host": "hub.example",
    "planned": ("a", "b"),
    "applied": ("a",),
    "failed": ("b",),
    "path": Path("model.safetensors"),
    "tensor": "lm_head.weight",
    "offset_bytes": 8,
    "missing_bytes": 4,
    "tier": "cuda:0",
    "needed_bytes": 9,
    "free_bytes": 7,
    "holders": ("alpha (busy)",),
    "retry_after_s": 2.5,
    "node": "10.0.0.2",
    "errors": (ConfigError("device", "is gone."),),
    "seconds_left": 9.5,
}


def _tree(kind: type[OllmError] = OllmError) -> Iterator[type[OllmError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _tree(each)


_KINDS = sorted(set(_tree()), key=lambda kind: kind.__name__)


def _made(kind: type[OllmError]) -> OllmError:
    names = list(inspect.signature(kind).parameters)
    given = {name: _GIVEN[name] for name in names}
    positional = [given.pop(name) for name in ("field", "message") if name in given]
    return kind(*positional, **given)


def _told(error: BaseException) -> Any:
    """What an error says, and all that it carries."""
    state = {
        name: [_told(each) for each in value] if name == "errors" else value
        for name, value in vars(error).items()
    }
    return type(error), error.args, str(error), state


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
def test_an_error_arrives_as_it_left(kind: type[OllmError]) -> None:
    error = _made(kind)
    error.add_note("While the second layer was read.")
    arrived = pickle.loads(pickle.dumps(error))
    assert _told(arrived) == _told(error)
    assert arrived.__notes__ == ["While the second layer was read."]


def test_every_error_of_this_package_is_among_them() -> None:
    named = {kind for kind in vars(errors).values() if inspect.isclass(kind)}
    assert {kind for kind in named if issubclass(kind, OllmError)} <= set(_KINDS)
    assert DroppedTokensError in _KINDS


def test_what_an_error_carries_arrives_with_it() -> None:
    error = BackendsFailedError("2 failed.", errors=[ConfigError("dtype", "is odd."), OSError(5)])
    first, second = pickle.loads(pickle.dumps(error)).errors
    assert (first.field, second.args) == ("dtype", (5,))


def test_codes_tell_errors_apart() -> None:
    # What has no code of its own is a case of what it derives from.
    own = [kind.code for kind in _KINDS if "code" in vars(kind)]
    assert len(own) == len(set(own))
