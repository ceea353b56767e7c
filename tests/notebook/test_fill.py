from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.errors import ConfigError
from ollm_widgets.notebook.fill import fill

VARIABLES = {
    "name": "Ada",
    "price": 3.14159,
    "people": {"a": {"age": 36}},
    "words": ["x", "y"],
    "long": "{not me} " * 50_000,
}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Hello {name}.", "Hello Ada."),
        ("{name}{name}", "AdaAda"),
        ("{ name }", "Ada"),
        ("{price:.2f} or {price:>10.1f}", "3.14 or        3.1"),
        ("{name!r} {name!s:>5}", "'Ada'   Ada"),
        ('{people["a"]["age"] + 1}', "37"),
        ('{", ".join(words)}', "x, y"),
        ('{{"a": {price:.0f}}}', '{"a": 3}'),
        ("{ {'k': 1}['k'] }", "1"),
        ("{[w for w in words if w != 'x']}", "['y']"),
        ("{(lambda n: n + 1)(1)}", "2"),
        ("{words[0:1]}", "['x']"),
        ('{"}" + name}', "}Ada"),
        ("{'a' if price > 3 else 'b'}", "a"),
        ("{(\n  name\n)}", "Ada"),
        ("{1, 2}", "(1, 2)"),
        ("{{name}} {{}} }}{{", "{name} {} }{"),
        ("no braces", "no braces"),
        ("", ""),
    ],
)
def test_expressions_are_replaced_as_in_an_f_string(text: str, filled: str) -> None:
    assert fill(text, VARIABLES) == filled


def test_a_long_value_is_inserted_whole_and_its_braces_are_left_alone() -> None:
    assert fill("<{long}>", VARIABLES) == f"<{VARIABLES['long']}>"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{nobody}", "{nobody} failed: NameError: name 'nobody' is not defined."),
        ("{words[7]}", "{words[7]} failed: IndexError: list index out of range."),
        ("{price:Q}", "{price:Q} failed: ValueError: Unknown format code"),
        ("{1 / 0}", "ZeroDivisionError"),
        ("{two words}", "{two words} is no expression (invalid syntax"),
        ("{}", "{} is no expression"),
        ("{name = 3}", "{name = 3} is no expression"),
        ("a\nb {name", "line 2 has a { that is never closed."),
        ("a\n} b", "line 2 has a } that closes nothing."),
        ("{" + "x" * 500 + " y}", "..."),
    ],
)
def test_what_cannot_be_filled_is_named_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fill(text, VARIABLES)
    assert says in str(caught.value)
    assert str(caught.value).startswith("--fill: ")
    assert len(str(caught.value)) < 250


def test_an_interrupt_of_an_expression_is_no_mistake() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill("{stop()}", {"stop": interrupted})


def test_an_expression_leaves_the_variables_as_they_are() -> None:
    variables = {"name": "Ada"}
    fill("{name} {(lambda: 1)()}", variables)
    assert variables == {"name": "Ada"}


@given(st.text(max_size=80))
def test_text_with_doubled_braces_comes_back_as_it_was(text: str) -> None:
    assert fill(text.replace("{", "{{").replace("}", "}}"), {}) == text


@given(st.text(alphabet="{}ab[]:!'\"\n(), ", max_size=40))
def test_any_text_is_filled_or_refused_in_words(text: str) -> None:
    try:
        fill(text, {"a": "x", "b": [2]})
    except ConfigError as error:
        assert error.field == "--fill"  # noqa: PT017  (both outcomes are right)
