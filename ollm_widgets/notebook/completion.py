"""Completion of what follows ``%ollm`` and ``%%ollm``, without network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# IPython passes the line as typed; cell magics and line magics are dispatched by their prefix.
_KEYS = ("%ollm", "%%ollm")
# Of commands, beside the options of a config.
_OWN_FLAGS = {"plan": ("--why",), "doctor": ("--measure",)}


def add_completion(shell: InteractiveShell) -> None:
    """Complete arguments of the magics in `shell`."""
    for key in _KEYS:
        shell.set_hook("complete_command", _complete, str_key=key)  # type: ignore[no-untyped-call]  # IPython does not annotate it


def remove_completion(shell: InteractiveShell) -> None:
    """Take the completion away again."""
    dispatcher = shell.strdispatchers.get("complete_command")
    if dispatcher is not None:
        for key in _KEYS:
            dispatcher.strs.pop(key, None)


def _complete(_shell: object, event: Any) -> list[str]:
    return suggest(event.line)


def suggest(line: str) -> list[str]:
    """Words that may stand where `line` ends; IPython keeps those that fit."""
    from ollm_widgets.notebook.arguments import COMMANDS, CONFIG_OPTIONS, flag

    words = line.split()
    done = words if line.endswith(" ") else words[:-1]
    typing = "" if line.endswith(" ") or not words else words[-1]
    if done and done[-1].startswith("--"):
        choices = CONFIG_OPTIONS.get(done[-1][2:].replace("-", "_"), {}).get("choices", ())
        if choices:
            return list(choices)
    if words and words[0] == "%%ollm":
        options = ["--into", "--system", "--max-new-tokens", "--temperature", "--top-p"]
        return [*options, "--seed", "--stop"] if typing.startswith("-") else _models()
    if len(done) <= 1:
        return list(COMMANDS)
    if done[1] == "kv":
        return _kv_words(done[2:], typing)
    if typing.startswith("-"):
        names = CONFIG_OPTIONS if done[1] in ("plan", "load") else ()
        return [*_OWN_FLAGS.get(done[1], ()), *map(flag, names)]
    return [] if done[1] in ("list", "doctor") else _models()


def _kv_words(done: list[str], typing: str) -> list[str]:
    """What may follow ``%ollm kv``; ids are those of the folder that the session's config names."""
    from ollm_widgets.notebook.arguments import KV_COMMANDS
    from ollm_widgets.notebook.kv import folder_of, kv_names
    from ollm_widgets.session.session import default_session

    if not done:
        return list(KV_COMMANDS)
    if typing.startswith("-"):
        return ["--cache-dir", "--all"] if done[0] == "rm" else ["--cache-dir"]
    if len(done) > 1 or done[0] == "list":
        return []
    return kv_names(folder_of(default_session().config))


def _models() -> list[str]:
    from ollm_widgets.models.catalog import CATALOG
    from ollm_widgets.session.session import default_session

    session = default_session()
    loaded = [resident.id for resident in session.manager.residents()]
    local = [model.reference for model in session.browser.listed]
    return list(dict.fromkeys([*loaded, *(entry.alias for entry in CATALOG), *local]))
