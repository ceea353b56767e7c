from __future__ import annotations

from pathlib import Path

import pytest

from ollm_widgets.notebook.arguments import COMMANDS, cell_parser, line_parser
from ollm_widgets.notebook.suggestions import words_for
from ollm_widgets.runtime.completion import Completion

VARIABLES = {
    "talk": [{"role": "user", "content": "Hi."}],
    "answer": Completion("Hi.", "m", "stop", 1, 1, 0.1, 0.2, 1.0),
    "numbers": [1, 2],
    "_hidden": [],
    "Out": {},
}


def offered(line: str) -> set[str]:
    return set(words_for(line, VARIABLES))


def test_every_command_and_every_flag_of_each_is_offered() -> None:
    assert offered("%ollm ") == set(COMMANDS)
    commands = line_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr, index]
    for name, parser in commands.items():
        flags = {flag for flag in parser._option_string_actions if flag.startswith("--")}
        assert flags <= offered(f"%ollm {name} --") | {"--cache-dir"}
    flags = {flag for flag in cell_parser()._option_string_actions if flag.startswith("--")}
    assert offered("%%ollm --") == flags


@pytest.mark.parametrize(
    ("line", "has", "has_not"),
    [
        ("%ollm lo", {"load", "list"}, {"--help"}),
        ("%ollm -", {"--help"}, {"load"}),
        ("%ollm load ", {"smollm2-135m", "gemma3-12B"}, {"--dtype"}),
        ("%ollm load smollm2-135m --dtype ", {"float32", "auto"}, {"smollm2-135m"}),
        ("%ollm load smollm2-135m --dtype=fl", {"float32"}, set()),
        ("%ollm load --dtype float32 ", {"smollm2-135m"}, set()),
        ("%ollm load smollm2-135m --device ", {"cpu", "cuda"}, set()),
        ("%ollm load smollm2-135m --dtype float32 --", {"--device", "--multimodal"}, {"--dtype"}),
        ("%ollm search --sort ", {"downloads", "last-used"}, set()),
        ("%ollm config ", {"idle_timeout", "demotes"}, set()),
        ("%ollm config demotes ", {"on", "off"}, {"idle_timeout"}),
        ("%ollm kv ", {"list", "info", "rm"}, set()),
        ("%ollm kv rm --", {"--all", "--cache-dir"}, set()),
        ("%%ollm ", {"smollm2-135m"}, {"plan"}),
        ("%%ollm --chat ", {"talk"}, {"answer", "numbers", "_hidden", "Out"}),
        ("%%ollm --into ", {"talk", "answer", "numbers"}, {"_hidden", "Out"}),
        ("%%ollm smollm2-135m --stop x --st", {"--stop"}, set()),
        ("%%ollm smollm2-135m --seed 1 --s", {"--stop", "--system"}, {"--seed"}),
    ],
)
def test_what_fits_the_place_is_offered(line: str, has: set[str], has_not: set[str]) -> None:
    words = offered(line)
    assert has <= words
    assert not has_not & words


@pytest.mark.parametrize(
    "line",
    ["", "%ollm nonsense ", "%ollm plan smollm2-135m ", "%%ollm --seed ",
     "%%ollm --image ./nowhere/", "%ollm list ",     "%ollm kv list "],
)  # fmt: skip
def test_nothing_is_offered_where_nothing_is_known(line: str) -> None:
    assert offered(line) == set()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("%ollm load {}/mo", "{}/models/"),
        ("%ollm load path:{}/", "path:{}/models/"),
        ("%%ollm --image {}/", "{}/cat.png"),
    ],
)
def test_paths_are_completed_as_they_are_typed(tmp_path: Path, line: str, word: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "cat.png").touch()
    (tmp_path / ".hidden").touch()
    assert word.format(tmp_path) in offered(line.format(tmp_path))
    assert not any(".hidden" in each for each in offered(line.format(tmp_path)))


def test_models_of_the_hubs_cache_are_offered_by_their_names(
    saved_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from ollm_widgets.models.resolver import ModelResolver
    from ollm_widgets.session.session import default_session

    snapshot = tmp_path / "models--someone--tiny-llama" / "snapshots" / ("a" * 40)
    shutil.copytree(saved_llama, snapshot)
    refs = tmp_path / "models--someone--tiny-llama" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    loader = default_session().manager.loader
    monkeypatch.setattr(loader, "resolver", ModelResolver(hub_cache_dir=tmp_path))
    assert "someone/tiny-llama" in offered("%ollm load some")
