"""What each form of the magic does."""

from __future__ import annotations

import textwrap
import threading
from typing import TYPE_CHECKING, Any

from ollm_widgets.errors import ConfigError
from ollm_widgets.models.catalog import DEFAULT_ALIAS
from ollm_widgets.models.hub_cache import is_offline
from ollm_widgets.notebook.arguments import (
    COMMANDS,
    cell_parser,
    config_of,
    line_parser,
    split,
)
from ollm_widgets.notebook.asking import Asking
from ollm_widgets.notebook.leasing import Leasing
from ollm_widgets.notebook.printing import say
from ollm_widgets.notebook.progress import ProgressLine
from ollm_widgets.render.text import printable
from ollm_widgets.render.units import format_bytes
from ollm_widgets.session.effects import moved_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.session.session import Session

_STORY_WIDTH = 96


class Commands:
    """Runs the magics of one shell on one session."""

    def __init__(self, shell: InteractiveShell, session: Session) -> None:
        self._shell = shell
        self._session = session
        self._leasing = Leasing(session)

    # ------------------------------------------------------------------ %ollm

    def line(self, line: str) -> Any:
        """Run ``%ollm ...``; what it returns is the cell's result."""
        words = split(line)
        if words and not words[0].startswith("-") and words[0] not in COMMANDS:
            raise ConfigError(
                "%ollm",
                f"{words[0]!r} is no command.",
                hint=f"Type one of {', '.join(COMMANDS)}, or %ollm alone for the workbench.",
            )
        arguments = line_parser().parse_args(words)
        run: dict[str | None, Callable[[argparse.Namespace], Any]] = {
            None: self._workbench,
            "plan": self._plan,
            "load": self._load,
            "list": self._list,
            "search": self._search,
            "info": self._info,
            "download": self._download,
            "rm": self._remove,
            "memory": self._memory,
            "unload": self._unload,
            "pin": self._pin,
            "unpin": self._unpin,
            "demote": self._demote,
            "config": self._config,
            "cluster": self._cluster,
            "kv": self._kv,
            "doctor": self._doctor,
        }
        return run[arguments.command](arguments)

    def _workbench(self, _arguments: argparse.Namespace) -> Any:
        from ollm_widgets.widgets.workbench import Workbench

        return Workbench(self._session)

    def _plan(self, arguments: argparse.Namespace) -> Any:
        from ollm_widgets.session.room import room_for

        manager = self._session.manager
        plan = manager.plan(config_of(arguments, self._model(arguments)))
        for sentence in room_for(manager, plan):
            say(textwrap.fill(sentence, _STORY_WIDTH))
        if not arguments.why:
            return plan
        for paragraph in manager.explain(plan).splitlines():
            say(textwrap.fill(paragraph, _STORY_WIDTH))
        return None

    def _load(self, arguments: argparse.Namespace) -> Runtime | None:
        config = config_of(arguments, self._model(arguments))
        lease = self._leasing.acquire(config, anyway=arguments.anyway)
        if lease is None:
            return None
        with lease:
            self._session.use(lease.id)
            return lease.runtime

    def _list(self, _arguments: argparse.Namespace) -> Any:
        from ollm_widgets.notebook.listing import ModelListing
        from ollm_widgets.notebook.memory import in_memory
        from ollm_widgets.session.shelf import list_models

        manager = self._session.manager
        return ModelListing(list_models(manager.loader, planner=manager), in_memory(manager))

    def _info(self, arguments: argparse.Namespace) -> Any:
        manager = self._session.manager
        if arguments.model is None and self._session.runtime is not None:
            return self._session.runtime
        model = self._model(arguments)
        runtime = manager.get(model)
        if runtime is not None:
            return runtime
        resolved = manager.loader.resolve(model)
        absent = resolved.model_path is None and resolved.is_downloadable()
        if absent and not is_offline():
            return manager.loader.inspect_remote(model)
        return resolved

    def _search(self, arguments: argparse.Namespace) -> Any:
        from ollm_widgets.models.search import search_models
        from ollm_widgets.notebook.listing import SearchListing

        page = search_models(
            " ".join(arguments.words),
            task=arguments.task,
            sort=arguments.sort,
            page=arguments.page,
            where=("machine",) if arguments.local or is_offline() else ("machine", "hub"),
            resolver=self._session.manager.loader.resolver,
        )
        return SearchListing(page)

    def _download(self, arguments: argparse.Namespace) -> None:
        loader = self._session.manager.loader
        cancel = threading.Event()
        with ProgressLine(arguments.model) as line:
            try:
                folder = loader.download(arguments.model, None, arguments.force, line.show, cancel)
            except KeyboardInterrupt:
                line.end("was interrupted; downloading again goes on from there,")
                return
        say(f"{arguments.model} is at {folder}.")

    def _remove(self, arguments: argparse.Namespace) -> None:
        deletion = self._session.plan_removal(arguments.model)
        what = f"{deletion.what}, {format_bytes(deletion.bytes)}"
        if not arguments.yes:
            try:
                answer = input(f"Delete {printable(what)}? [y/N] ")
            except (EOFError, NotImplementedError, RuntimeError):
                # A notebook that is run without a person has nobody to ask.
                raise ConfigError(
                    "%ollm rm",
                    f"this would delete {what}, and nobody can be asked here.",
                    hint="Add --yes to delete without asking.",
                ) from None
            if answer.strip().casefold() not in ("y", "yes"):
                say("Nothing was deleted.")
                return
        freed_bytes = deletion.run()
        self._session.browser.refresh()
        say(f"Deleted, {format_bytes(freed_bytes)} freed.")

    def _unload(self, arguments: argparse.Namespace) -> None:
        from ollm_widgets.notebook.unloading import Unloading

        unloading = Unloading(self._session.manager, force=arguments.force)
        if arguments.all:
            unloading.everything()
        else:
            unloading.one(self._resident_id(arguments.model))

    def _memory(self, _arguments: argparse.Namespace) -> Any:
        from ollm_widgets.notebook.memory import list_memory

        return list_memory(self._session.manager)

    def _pin(self, arguments: argparse.Namespace) -> None:
        runtime_id = self._resident_id(arguments.model)
        self._session.manager.pin(runtime_id)
        say(f"{runtime_id}: pinned, it stays in memory.")

    def _unpin(self, arguments: argparse.Namespace) -> None:
        runtime_id = self._resident_id(arguments.model)
        self._session.manager.unpin(runtime_id)
        say(f"{runtime_id}: unpinned, it may leave memory again.")

    def _demote(self, arguments: argparse.Namespace) -> None:
        demoted = self._session.manager.demote(self._resident_id(arguments.model))
        say(f"{demoted.id}: {moved_text(demoted)}.")

    def _config(self, arguments: argparse.Namespace) -> Any:
        from ollm_widgets.notebook.options import change_option, list_options

        manager = self._session.manager
        if arguments.name is None:
            return list_options(manager)
        # As it is typed, or as it is shown: 15m, 15 min, idle_timeout=15m.
        words = " ".join((arguments.name, *arguments.value)).replace("=", " ").split()
        name, text = words[0] if words else "", " ".join(words[1:])
        if not text:
            raise ConfigError(
                "%ollm config",
                f"{name} needs a value.",
                hint="%ollm config alone shows all of them.",
            )
        say(change_option(manager, name, text))
        return None

    def _cluster(self, _arguments: argparse.Namespace) -> Any:
        from ollm_widgets.notebook.cluster import join

        return join(self._session.manager)

    def _kv(self, arguments: argparse.Namespace) -> Any:
        from ollm_widgets.notebook.kv import folder_of, kv_info, list_kv, remove_kv

        folder = folder_of(self._session.config, arguments.cache_dir)
        match arguments.kv_command:
            case "info":
                return kv_info(folder, arguments.what)
            case "rm":
                say(remove_kv(folder, arguments.what, everything=arguments.all))
                return None
            case _:
                return list_kv(folder)

    def _doctor(self, arguments: argparse.Namespace) -> Any:
        from ollm_widgets.notebook.doctor import examine

        return examine(measure=arguments.measure)

    # ------------------------------------------------------------------ %%ollm

    def cell(self, line: str, cell: str) -> None:
        """Run ``%%ollm``: stream the answer, keep it where asked."""
        arguments = cell_parser().parse_args(split(line))
        Asking(self._session, self._leasing, self._shell.user_ns).ask(arguments, cell)

    # ------------------------------------------------------------------ inside

    def _model(self, arguments: argparse.Namespace) -> str:
        """The model that was named, else the one in use, else the default."""
        if arguments.model:
            return str(arguments.model)
        config = self._session.config
        return str(config.model_reference) if config else DEFAULT_ALIAS

    def _resident_id(self, model: str | None) -> str:
        """The id of a loaded model; the one in use where none is named."""
        from ollm_widgets.notebook.memory import runtime_id_of

        named = model or self._session.runtime_id
        if named is not None:
            return runtime_id_of(self._session.manager, named)
        ids = [resident.id for resident in self._session.manager.residents()]
        departure = self._session.departure
        if departure is not None and departure.by_itself:
            raise ConfigError("model", departure.how, hint="%ollm load brings it back.")
        if ids:
            raise ConfigError("model", "none is in use here.", hint=f"In memory: {', '.join(ids)}.")
        raise ConfigError("model", "no model is loaded.", hint="%ollm load MODEL loads one.")
