"""What each form of the magic does."""

from __future__ import annotations

import textwrap
import threading
from typing import TYPE_CHECKING, Any

from ollm_widgets.errors import ConfigError, OllmError
from ollm_widgets.models.catalog import DEFAULT_ALIAS
from ollm_widgets.models.hub_cache import is_offline
from ollm_widgets.notebook.arguments import (
    COMMANDS,
    cell_parser,
    config_of,
    generation_of,
    line_parser,
    split,
)
from ollm_widgets.notebook.progress import ProgressLine
from ollm_widgets.notebook.talk import Talk
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.render.units import format_bytes, format_memory
from ollm_widgets.runtime.completion import Completion, figures

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from ollm_widgets.runtime.completion import Delta
    from ollm_widgets.runtime.loaded import LoadedRuntime
    from ollm_widgets.runtime.residency import Lease
    from ollm_widgets.session.session import Session

_STORY_WIDTH = 96


class Commands:
    """Runs the magics of one shell on one session."""

    def __init__(self, shell: InteractiveShell, session: Session) -> None:
        self._shell = shell
        self._session = session

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
            "unload": self._unload,
            "kv": self._kv,
            "doctor": self._doctor,
        }
        return run[arguments.command](arguments)

    def _workbench(self, _arguments: argparse.Namespace) -> Any:
        from ollm_widgets.widgets.workbench import Workbench

        return Workbench(self._session)

    def _plan(self, arguments: argparse.Namespace) -> Any:
        loader = self._session.manager.loader
        plan = loader.plan(config_of(arguments, self._model(arguments)))
        if not arguments.why:
            return plan
        for paragraph in loader.explain(plan).splitlines():
            print(textwrap.fill(paragraph, _STORY_WIDTH))
        return None

    def _load(self, arguments: argparse.Namespace) -> LoadedRuntime | None:
        lease = self._acquire(config_of(arguments, self._model(arguments)))
        if lease is None:
            return None
        with lease:
            self._session.use(lease.id)
            return lease.runtime

    def _list(self, _arguments: argparse.Namespace) -> Any:
        from ollm_widgets.notebook.listing import ModelListing
        from ollm_widgets.session.shelf import list_models

        loaded = tuple(resident.id for resident in self._session.manager.residents())
        return ModelListing(list_models(self._session.manager.loader), loaded)

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
        print(f"{arguments.model} is at {folder}.")

    def _remove(self, arguments: argparse.Namespace) -> None:
        deletion = self._session.plan_removal(arguments.model)
        what = f"{deletion.what}, {format_bytes(deletion.bytes)}"
        if not arguments.yes:
            try:
                answer = input(f"Delete {what}? [y/N] ")
            except (EOFError, NotImplementedError, RuntimeError):
                # A notebook that is run without a person has nobody to ask.
                raise ConfigError(
                    "%ollm rm",
                    f"this would delete {what}, and nobody can be asked here.",
                    hint="Add --yes to delete without asking.",
                ) from None
            if answer.strip().casefold() not in ("y", "yes"):
                print("Nothing was deleted.")
                return
        freed_bytes = deletion.run()
        self._session.browser.refresh()
        print(f"Deleted, {format_bytes(freed_bytes)} freed.")

    def _unload(self, arguments: argparse.Namespace) -> None:
        manager = self._session.manager
        if arguments.all:
            unloaded = manager.unload_all(arguments.force)
        else:
            model = arguments.model or self._session.runtime_id
            if model is None:
                raise ConfigError("model", "no model is loaded.", hint="Nothing to unload.")
            unloaded = (manager.unload(self._resident_id(model), arguments.force),)
        for one in unloaded:
            print(f"{one.name} was unloaded, {format_memory(one.freed_bytes)} given back.")
        if not unloaded:
            print("No model was loaded.")

    def _kv(self, arguments: argparse.Namespace) -> Any:
        from ollm_widgets.notebook.kv import folder_of, kv_info, list_kv, remove_kv

        folder = folder_of(self._session.config, arguments.cache_dir)
        match arguments.kv_command:
            case "info":
                return kv_info(folder, arguments.what)
            case "rm":
                print(remove_kv(folder, arguments.what, everything=arguments.all))
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
        if arguments.into and not arguments.into.isidentifier():
            raise ConfigError("--into", f"{arguments.into!r} is no variable name.")
        generation = generation_of(arguments)
        generation.validate()
        if not cell.strip():
            raise ConfigError("%%ollm", "the cell is empty.", hint="Write the question below it.")
        variables = self._shell.user_ns
        talk = Talk(variables if arguments.chat else {}, arguments.chat or "once")
        lease = self._lease(arguments.model)
        if lease is None:
            return
        messages = talk.asking(cell.strip(), arguments.system)
        with lease:
            template = lease.runtime.tokenizer.chat_template
            if arguments.chat and not template:
                raise ConfigError(
                    "--chat",
                    f"{lease.runtime.name} has no chat template.",
                    hint="Leave --chat out: the cell is then a text that it continues.",
                )
            prompt = messages if template else cell.strip()
            completion = self._stream(lease.runtime, prompt, generation)
        if completion is None:
            return
        if arguments.into:
            variables[arguments.into] = completion
        if arguments.chat and completion.text:
            talk.keep(messages, completion)
            print(f"[{figures(completion)}]")

    def _stream(self, runtime: LoadedRuntime, prompt: Any, generation: Any) -> Completion | None:
        """Print the answer as it comes; an interrupt stops it and keeps what there is."""
        pieces: list[str] = []
        last: Delta | None = None
        try:
            for last in runtime.stream(prompt, generation):
                pieces.append(last.text)
                print(last.text, end="", flush=True)
        except KeyboardInterrupt:
            print("\n[stopped]")
        else:
            print()
        return Completion.of("".join(pieces), runtime.name, last) if last else None

    # ------------------------------------------------------------------ inside

    def _model(self, arguments: argparse.Namespace) -> str:
        """The model that was named, else the one in use, else the default."""
        if arguments.model:
            return str(arguments.model)
        config = self._session.config
        return str(config.model_reference) if config else DEFAULT_ALIAS

    def _lease(self, model: str | None) -> Lease | None:
        manager = self._session.manager
        name = model or self._session.runtime_id
        if name is not None and manager.get(name) is not None:
            return manager.borrow(name)
        config = self._session.config if model is None else None
        lease = self._acquire(config or RuntimeConfig(model or DEFAULT_ALIAS))
        if lease is not None:
            self._session.use(lease.id)
        return lease

    def _acquire(self, config: RuntimeConfig) -> Lease | None:
        """Load with a line of progress; None after an interrupt."""
        with ProgressLine(config.model_reference) as line:
            try:
                return self._session.manager.acquire(config, line.show)
            except KeyboardInterrupt:
                line.end("was cancelled")
                return None

    def _resident_id(self, model: str) -> str:
        """The id of a loaded model, named by its id or by any reference to it."""
        manager = self._session.manager
        if manager.get(model) is not None:
            return model
        try:
            runtime = manager.get(RuntimeConfig(model))
        except OllmError:
            runtime = None
        ids = [resident.id for resident in manager.residents() if resident.runtime is runtime]
        return ids[0] if runtime is not None and ids else model
