"""Words that may follow ``%ollm`` and ``%%ollm``, read off their parsers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ollm_widgets.models.catalog import CATALOG
from ollm_widgets.models.search import search_models
from ollm_widgets.notebook.arguments import cell_parser, line_parser
from ollm_widgets.notebook.options import OPTIONS, suggested_values
from ollm_widgets.notebook.talk import is_talk
from ollm_widgets.session.session import Session, default_session

_OF_LOADED = ("unload", "pin", "unpin", "demote")
_OF_FILES = ("rm", "download")
_MOST_MODELS = 100


def words_for(line: str, variables: dict[str, Any]) -> list[str]:
    """Words that may stand where `line` ends, whether or not they fit what is typed there."""
    typed = line.replace("=", " ").split()
    typing = "" if line[-1:].isspace() or line.endswith("=") or not typed else typed.pop()
    if not typed:
        return []
    parser = cell_parser() if typed[0] == "%%ollm" else line_parser()
    words, path = typed[1:], [typed[0]]
    while (commands := _commands(parser)) is not None:
        if not words:
            return _flags(parser) if typing.startswith("-") else list(commands)
        if words[0] not in commands:
            return []
        path.append(words[0])
        parser, words = commands[words[0]], words[1:]
    options = {name: each for each in parser._actions for name in each.option_strings}
    if words and words[-1] in options and options[words[-1]].nargs != 0:
        return _values(options[words[-1]], typing, variables)
    if typing.startswith("-"):
        used = {options[word].dest for word in words if word in options}
        return [
            name
            for name in _flags(parser)
            if options[name].dest not in used or isinstance(options[name], argparse._AppendAction)
        ]
    return _positional(path[1:], _given(words, options), typing)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser] | None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return None


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [name for each in parser._actions for name in each.option_strings if len(name) > 2]


def _given(words: list[str], options: dict[str, argparse.Action]) -> list[str]:
    """What was typed beside options and their values."""
    given, is_value = [], False
    for word in words:
        option = options.get(word)
        if option is None and not is_value:
            given.append(word)
        is_value = option is not None and option.nargs != 0
    return given


def _values(option: argparse.Action, typing: str, variables: dict[str, Any]) -> list[str]:
    if option.choices is not None:
        return [str(choice) for choice in option.choices]
    match option.dest:
        case "device":
            return ["auto", "cpu", "cuda", "mps", "ray"]
        case "into":
            return _own(variables)
        case "chat":
            return [name for name in _own(variables) if is_talk(variables[name])]
        case "image" | "models_dir" | "cache_dir":
            return _paths(typing)
        case _:
            return []  # numbers and texts


def _own(variables: dict[str, Any]) -> list[str]:
    """Variables that a person made, as far as their names tell."""
    shown = ("In", "Out", "exit", "quit", "open", "get_ipython")
    return [name for name in variables if not name.startswith("_") and name not in shown]


def _positional(path: list[str], given: list[str], typing: str) -> list[str]:
    """What may stand as the next word that is no option."""
    command = path[0] if path else ""
    if command == "config":
        return list(OPTIONS) if not given else suggested_values(given[0])
    if given:
        return []
    if command == "kv":
        return _stored() if path[1:] in (["info"], ["rm"]) else []
    if command in _OF_LOADED:
        return _loaded(default_session())
    if command in ("", "plan", "load", "info", *_OF_FILES):
        path_like = "/" in typing or typing.startswith((".", "~", "path:"))
        return [*_models(), *(_paths(typing) if path_like else ())]
    return []


def _paths(typing: str) -> list[str]:
    """Files and folders that begin as `typing` does, in its own spelling."""
    scheme = "path:" if typing.startswith("path:") else ""
    typed = typing.removeprefix(scheme)
    folder, _slash, name = typed.rpartition("/")
    shown = typed[: len(typed) - len(name)]
    try:
        inside = sorted(Path(shown or folder or ".").expanduser().iterdir())
    except (OSError, RuntimeError):  # no such folder, or no such user
        return []
    return [
        f"{scheme}{shown}{path.name}{'/' if path.is_dir() else ''}"
        for path in inside
        if name.startswith(".") or not path.name.startswith(".")
    ]


def _stored() -> list[str]:
    """Models and ids in the folder of KV pages that the session's config names."""
    from ollm_widgets.notebook.kv import folder_of, kv_names

    return kv_names(folder_of(default_session().config))


def _loaded(session: Session) -> list[str]:
    return [resident.id for resident in session.manager.residents()]


def _models() -> list[str]:
    session = default_session()
    aliases = (entry.alias for entry in CATALOG)
    # What was read of a folder is remembered until the folder changes, so looking is quick.
    page = search_models(
        where=("machine",), page_size=_MOST_MODELS, resolver=session.manager.loader.resolver
    )
    here = (model.reference for model in page.items)
    return list(dict.fromkeys([*_loaded(session), *aliases, *here]))
