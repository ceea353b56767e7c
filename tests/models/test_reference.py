from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.errors import ModelReferenceError
from ollm_widgets.models.reference import ModelReference


@pytest.mark.parametrize(
    ("text", "scheme", "identifier", "revision"),
    [
        ("smollm2-135m", None, "smollm2-135m", None),
        ("  org/name \n", None, "org/name", None),
        ("org/name@v1.0", None, "org/name", "v1.0"),
        ("org/name@refs/pr/3", None, "org/name", "refs/pr/3"),
        ("hf:org/name", "hf", "org/name", None),
        ("hf://org/name@main", "hf", "org/name", "main"),
    ],
)
def test_a_name_is_split_into_scheme_identifier_and_revision(
    text: str, scheme: str | None, identifier: str, revision: str | None
) -> None:
    reference = ModelReference.parse(text)
    assert reference.raw == text.strip()
    assert reference.scheme == scheme
    assert reference.identifier == identifier
    assert reference.revision == revision
    assert reference.local_path is None


@pytest.mark.parametrize(
    "text", ["", "   ", "@main", "org/name@", "hf:", "hf://", "path:", "a\nb", "a\x00b", "hf:@x"]
)
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(ModelReferenceError) as caught:
        ModelReference.parse(text)
    assert isinstance(caught.value, ValueError)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["/models/x", "./x", "../x@y", "~/x", "path:x", r"C:\models\x"])
def test_a_path_is_absolute_and_has_no_revision(text: str) -> None:
    reference = ModelReference.parse(text)
    assert reference.scheme == "path"
    assert reference.revision is None
    assert reference.local_path is not None
    assert reference.local_path.is_absolute()
    assert not reference.is_hub_like()


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ModelReference.parse("~/m").local_path == tmp_path.resolve() / "m"


def test_an_existing_folder_or_weight_file_is_a_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model.gguf").touch()
    (tmp_path / "notes.txt").touch()
    assert ModelReference.parse("model").local_path == tmp_path.resolve() / "model"
    assert ModelReference.parse("model.gguf").local_path == tmp_path.resolve() / "model.gguf"
    assert ModelReference.parse("notes.txt").local_path is None


def test_a_path_object_is_always_a_path() -> None:
    assert ModelReference.parse(Path("org/name")).local_path == Path("org/name").resolve()


def test_a_linked_weight_file_keeps_the_name_that_tells_its_format(tmp_path: Path) -> None:
    (tmp_path / "blob").touch()
    link = tmp_path / "model.gguf"
    link.symlink_to(tmp_path / "blob")
    assert ModelReference.parse(str(link)).local_path == tmp_path.resolve() / "model.gguf"


@pytest.mark.parametrize(
    ("text", "hub_like"),
    [("org/name", True), ("hf:gpt2", True), ("gpt2", False), ("my org/name", False)],
)
def test_a_slash_or_the_scheme_makes_a_reference_hub_like(text: str, hub_like: bool) -> None:
    assert ModelReference.parse(text).is_hub_like() is hub_like


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("org/name", "org--name"),
        ("org/name@refs/pr/3", "org--name--refs--pr--3"),
        ("ollama:llama3", "ollama--llama3"),
        ("hf:..", "--"),
    ],
)
def test_the_folder_name_is_one_path_component(text: str, name: str) -> None:
    assert ModelReference.parse(text).materialization_name() == name


@given(st.text())
def test_any_text_is_a_reference_or_a_reference_error(text: str) -> None:
    try:
        reference = ModelReference.parse(text)
    except ModelReferenceError:
        return
    assert reference.identifier
    assert reference.revision is None or reference.revision
    name = reference.materialization_name()
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\:")


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"])))
def test_what_a_reference_prints_parses_to_the_same_reference(text: str) -> None:
    try:
        reference = ModelReference.parse(text)
    except ModelReferenceError:
        return
    again = ModelReference.parse(str(reference))
    assert (again.scheme, again.identifier, again.revision, again.local_path) == (
        reference.scheme,
        reference.identifier,
        reference.revision,
        reference.local_path,
    )
