from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.planning.plain import plain


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Part:
    value: Any


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.text().map(Path)
    | st.just(Colour.RED),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.frozensets(st.integers() | st.text())
        | st.dictionaries(st.text() | st.integers() | st.just(Colour.RED), inner)
        | inner.map(Part)
    ),
    max_leaves=10,
)


@given(values)
def test_anything_becomes_what_json_takes(value: object) -> None:
    document = plain(value)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_each_kind_of_value_has_its_plain_form() -> None:
    part = Part(
        MappingProxyType(
            {
                "path": Path("a/b"),
                "colour": Colour.RED,
                "set": {3, 1, 2},
                "nothing": float("nan"),
                "nested": (Part(1), Part("x")),
            }
        )
    )
    assert plain(part) == {
        "value": {
            "path": "a/b",
            "colour": "red",
            "set": [1, 2, 3],
            "nothing": None,
            "nested": [{"value": 1}, {"value": "x"}],
        }
    }
