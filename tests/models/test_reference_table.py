"""What each way of naming a model parses and resolves to, in one table."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ollm_widgets.errors import ModelReferenceError
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.resolver import ModelResolver

EIGHT_B = "meta-llama/Llama-3.1-8B-Instruct"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True, slots=True)
class Row:
    """One way of naming a model; a path is given relative to the folder one is in."""

    text: str
    scheme: str | None
    identifier: str
    revision: str | None
    source_kind: str
    found: str | None = None
    runs: bool = True

    def __str__(self) -> str:
        return repr(self.text)


TABLE = (
    # Aliases, in any case and with white space around them.
    Row("gpt-oss-20B", None, "gpt-oss-20B", None, "builtin", "openai/gpt-oss-20b"),
    Row("GPT-OSS-20b", None, "GPT-OSS-20b", None, "builtin", "openai/gpt-oss-20b"),
    Row(" llama3-8b-CHAT\n", None, "llama3-8b-CHAT", None, "builtin", EIGHT_B),
    Row("llama3-8B-chat@main", None, "llama3-8B-chat", "main", "hugging-face", EIGHT_B),
    Row("gemma3-12B", None, "gemma3-12B", None, "builtin", "google/gemma-3-12b-it"),
    # Repositories; one that an alias names is that alias, a revision makes it plain.
    Row("org/name", None, "org/name", None, "hugging-face", "org/name"),
    Row("Org/Name-1.5_b", None, "Org/Name-1.5_b", None, "hugging-face", "Org/Name-1.5_b"),
    Row(EIGHT_B, None, EIGHT_B, None, "builtin", EIGHT_B),
    Row(EIGHT_B.upper(), None, EIGHT_B.upper(), None, "builtin", EIGHT_B),
    Row(f"{EIGHT_B}@v1", None, EIGHT_B, "v1", "hugging-face", EIGHT_B),
    Row("org/name@v1.0", None, "org/name", "v1.0", "hugging-face", "org/name"),
    Row("org/name@refs/pr/3", None, "org/name", "refs/pr/3", "hugging-face", "org/name"),
    Row(f"org/name@{COMMIT}", None, "org/name", COMMIT, "hugging-face", "org/name"),
    Row("org/name @ main", None, "org/name", "main", "hugging-face", "org/name"),
    Row("org/name@a@b", None, "org/name", "a@b", "hugging-face", "org/name"),
    Row("hf:org/name", "hf", "org/name", None, "hugging-face", "org/name"),
    Row("hf://org/name", "hf", "org/name", None, "hugging-face", "org/name"),
    Row("hf: org/name@main ", "hf", "org/name", "main", "hugging-face", "org/name"),
    Row("hf:gpt2", "hf", "gpt2", None, "hugging-face", "gpt2"),
    Row("hf:gpt-oss-20B", "hf", "gpt-oss-20B", None, "hugging-face", "gpt-oss-20B"),
    # Paths: by scheme, by their look, or because they exist.
    Row("path:model", "path", "model", None, "local-path", "model"),
    Row("path: model", "path", "model", None, "local-path", "model"),
    Row("./model", "path", "model", None, "local-path", "model"),
    Row("model", "path", "model", None, "local-path", "model"),
    Row("model/", "path", "model", None, "local-path", "model"),
    Row("./model/../model", "path", "model", None, "local-path", "model"),
    Row("my model", "path", "my model", None, "local-path", "my model"),
    Row("modèle-é-模型", "path", "modèle-é-模型", None, "local-path", "modèle-é-模型"),
    Row("org/local", "path", "org/local", None, "local-path", "org/local"),
    Row("model@v1", "path", "model@v1", None, "local-path", "model@v1"),
    Row("tiny.gguf", "path", "tiny.gguf", None, "local-path", "tiny.gguf"),
    Row("path:tiny.gguf", "path", "tiny.gguf", None, "local-path", "tiny.gguf"),
    Row("model/model.safetensors", "path", "model/model.safetensors", None, "local-path", "model"),
    Row("./missing", "path", "missing", None, "local-path", "missing", runs=False),
    Row("./missing.gguf", "path", "missing.gguf", None, "local-path", "missing.gguf", runs=False),
    Row("../nowhere/x", "path", "../nowhere/x", None, "local-path", "../nowhere/x", runs=False),
    Row("path:org/name@v1", "path", "org/name@v1", None, "local-path", "org/name@v1", runs=False),
    # A managed folder by its name.
    Row("kept", None, "kept", None, "local-path", "managed/kept"),
    # Nothing of the kind.
    Row("missing.gguf", None, "missing.gguf", None, "opaque", runs=False),
    Row("no-such-model", None, "no-such-model", None, "opaque", runs=False),
    Row("my org/name", None, "my org/name", None, "opaque", runs=False),
    Row("org/name/extra", None, "org/name/extra", None, "opaque", runs=False),
    Row("org/../../etc", None, "org/../../etc", None, "opaque", runs=False),
    Row("hf:../../etc/passwd", "hf", "../../etc/passwd", None, "opaque", runs=False),
    Row("hf:..", "hf", "..", None, "opaque", runs=False),
    Row("hf:/etc", "hf", "/etc", None, "opaque", runs=False),
    Row("hf:a--b/c", "hf", "a--b/c", None, "opaque", runs=False),
    Row("模型", None, "模型", None, "opaque", runs=False),
    Row("ollama:llama3", None, "ollama:llama3", None, "opaque", runs=False),
    Row("HF:org/name", None, "HF:org/name", None, "opaque", runs=False),
    Row(r"org\name", None, r"org\name", None, "opaque", runs=False),
    Row("con:", None, "con:", None, "opaque", runs=False),
    Row("...", None, "...", None, "opaque", runs=False),
)

WINDOWS = (r"C:\models\x", "C:/models/x", r"d:\x.gguf", r"path:C:\models", "Z:/")

REFUSED = (
    "",
    " ",
    "\t\n",
    "@",
    "@main",
    "org/name@",
    "org/name@ ",
    "hf:",
    "hf://",
    "hf: ",
    "hf:@main",
    "path:",
    "path:  ",
    "a\nb",
    "a\x00b",
    "org/na\x1bme",
    "path:a\x00",
    "~no-such-user-anywhere/x",
    "a" * 5_000,
)


@pytest.fixture
def folder(
    tiny_llama: Path, tiny_gguf: Path, private_places: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder to be in, with models under several names, and one managed folder below it."""
    place = private_places / "here"
    place.mkdir()
    for name in ("model", "my model", "modèle-é-模型", "model@v1", "org/local", "managed/kept"):
        shutil.copytree(tiny_llama, place / name)
    shutil.copy(tiny_gguf, place / "tiny.gguf")
    monkeypatch.chdir(place)
    return place.resolve()


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_reference_parses_and_resolves_as_the_table_says(row: Row, folder: Path) -> None:
    reference = ModelReference.parse(row.text)
    assert reference.raw == row.text.strip()
    assert reference.scheme == row.scheme
    assert reference.revision == row.revision
    if row.scheme == "path":
        assert reference.local_path == (folder / row.identifier).resolve()
        assert reference.identifier == str(reference.local_path)
    else:
        assert reference.local_path is None
        assert reference.identifier == row.identifier
    model = ModelResolver(hub_cache_dir=folder / "hub").resolve(row.text, folder / "managed")
    assert model.source_kind == row.source_kind
    assert model.is_supported() is row.runs
    assert model.resolution_message
    if row.source_kind in ("builtin", "hugging-face"):
        assert model.repo_id == row.found
        assert model.is_downloadable()
    else:
        assert model.repo_id is None
        assert not model.is_downloadable()
    if row.source_kind == "local-path" and row.found is not None:
        assert model.model_path == (folder / row.found).resolve()


@pytest.mark.parametrize("text", WINDOWS)
def test_a_windows_drive_makes_a_path(text: str, folder: Path) -> None:
    model = ModelResolver(hub_cache_dir=folder / "hub").resolve(text, folder / "managed")
    assert model.source_kind == "local-path"
    assert model.reference.local_path is not None
    assert model.reference.revision is None


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:20]))
def test_what_cannot_name_a_model_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(ModelReferenceError) as caught:
        ModelReference.parse(text)
    assert caught.value.hint


@given(
    st.text(alphabet=st.sampled_from("aZ09 ./\\:~@-_%\x00\n模é\ud800"), max_size=40)
    | st.text(max_size=300)
)
@settings(max_examples=400, deadline=None)
@example("~" * 5_000)
@example("a" * 100_000)
@example("/" * 5_000)
@example("\ud800")
@example("./\ud800")
@example("path:\udcff.gguf")
def test_no_text_crashes_the_parser_or_leaves_the_managed_folder(text: str) -> None:
    try:
        reference = ModelReference.parse(text)
    except ModelReferenceError:
        return
    name = reference.materialization_name()
    assert name not in ("", ".", "..")
    assert "/" not in name
    assert "\\" not in name
    if reference.local_path is not None:
        assert reference.local_path.is_absolute()
        assert reference.revision is None


@given(st.text(alphabet=st.sampled_from("aB9 ./\\:~@-_模é\ud800"), max_size=30))
@settings(max_examples=200, deadline=None)
@example("a" * 4_000)
@example("b/" + "a" * 4_000)
@example("hf:\ud800")
def test_no_text_crashes_the_resolver(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "nothing-here"
    resolver = ModelResolver(hub_cache_dir=folder)
    try:
        model = resolver.resolve(text, folder)
    except ModelReferenceError:
        return
    assert model.resolution_message
