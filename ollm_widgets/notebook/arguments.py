"""What can be typed after ``%ollm`` and ``%%ollm``."""

from __future__ import annotations

import argparse
import shlex
from typing import Any, NoReturn, get_args

from ollm_widgets.errors import ConfigError
from ollm_widgets.models.search import Sort
from ollm_widgets.planning.config import (
    BackendId,
    DTypeChoice,
    GenerationConfig,
    KVCacheLifecycle,
    KVCodecId,
    KVStrategyId,
    RuntimeConfig,
    SelectorProfile,
)

COMMANDS = ("plan", "load", "list", "search", "info", "download", "rm", "unload", "kv", "doctor")
KV_COMMANDS = ("list", "info", "rm")


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(self.prog, f"{message}.", hint=f"Type {self.prog} --help for help.")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpShown


class HelpShown(Exception):  # noqa: N818  (control flow: --help has printed the help)
    """The help was asked for and has been printed."""


def line_parser() -> argparse.ArgumentParser:
    """Parser of ``%ollm``."""
    parser = _Parser(
        prog="%ollm",
        description="Run language models in this kernel. Without a command: the workbench.",
    )
    commands = parser.add_subparsers(dest="command", metavar="|".join(COMMANDS))
    plan = commands.add_parser("plan", help="what would run, does it fit, how fast; loads nothing")
    load = commands.add_parser("load", help="load a model, or return it if it is loaded")
    for command in (plan, load):
        command.add_argument("model", nargs="?", help="alias, hub id, folder or GGUF file")
        _add_config_options(command)
    plan.add_argument("--why", action="store_true", help="tell it in sentences, with a way to more")
    commands.add_parser("list", help="models of the catalog and on this machine")
    search = commands.add_parser("search", help="models on this machine and on the hub")
    search.add_argument("words", nargs="+", help="words of the name")
    search.add_argument("--task", metavar="TASK", help="e.g. text-generation")
    search.add_argument("--sort", choices=get_args(Sort), default="downloads")
    search.add_argument("--page", type=int, default=1, metavar="N")
    search.add_argument("--local", action="store_true", help="do not ask the hub")
    info = commands.add_parser("info", help="what a model is and can do")
    info.add_argument("model", nargs="?", help="a reference; by default the model in use")
    download = commands.add_parser("download", help="bring a model's files to this machine")
    download.add_argument("model", help="alias or hub id")
    download.add_argument("--force", action="store_true", help="fetch again what is here")
    remove = commands.add_parser("rm", help="delete a model's files; asks first")
    remove.add_argument("model", help="alias, hub id or managed folder")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    unload = commands.add_parser("unload", help="give a model's memory back")
    unload.add_argument("model", nargs="?", help="a loaded model; by default the one in use")
    unload.add_argument("--all", action="store_true", help="every loaded model")
    unload.add_argument("--force", action="store_true", help="stop a running answer first")
    _add_kv_commands(commands.add_parser("kv", help="what prompts have left on disk"))
    doctor = commands.add_parser("doctor", help="what this machine is, and what to mend")
    doctor.add_argument("--measure", action="store_true", help="measure its speeds now, in seconds")
    return parser


def cell_parser() -> argparse.ArgumentParser:
    """Parser of ``%%ollm``."""
    parser = _Parser(prog="%%ollm", description="Send the cell to a model and stream its answer.")
    parser.add_argument("model", nargs="?", help="by default the model in use")
    parser.add_argument("--into", metavar="NAME", help="keep the Completion in this variable")
    parser.add_argument("--chat", metavar="NAME", help="go on with the conversation of that name")
    parser.add_argument("--system", metavar="TEXT", help="instruction before the question")
    parser.add_argument("--max-new-tokens", type=int, metavar="N")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy, the default")
    parser.add_argument("--top-p", type=float, metavar="P")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end the answer here")
    return parser


def split(line: str) -> list[str]:
    """Split a line as a shell would.

    Raises
    ------
    ConfigError
        For a quote that is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigError("%ollm", f"{error}.", hint="Close the quote.") from error


def config_of(arguments: argparse.Namespace, model: str) -> RuntimeConfig:
    """The config that the options describe."""
    given = {name: getattr(arguments, name, None) for name in CONFIG_OPTIONS}
    return RuntimeConfig(
        model, **{name: value for name, value in given.items() if value is not None}
    )


def generation_of(arguments: argparse.Namespace) -> GenerationConfig:
    """The generation config that the options describe."""
    names = ("max_new_tokens", "temperature", "top_p", "seed")
    given: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    if arguments.stop:
        given["stop"] = tuple(arguments.stop)
    return GenerationConfig(**{name: value for name, value in given.items() if value is not None})


CONFIG_OPTIONS: dict[str, dict[str, Any]] = {
    "backend": {"choices": get_args(BackendId)},
    "device": {"metavar": "DEVICE", "help": "auto, cpu, cuda, cuda:1, mps"},
    "dtype": {"choices": get_args(DTypeChoice)},
    "kv_cache_strategy": {"choices": get_args(KVStrategyId)},
    "strategy_selector_profile": {"choices": get_args(SelectorProfile)},
    "kv_cache_window_tokens": {"type": int, "metavar": "N", "help": "keep the last N tokens"},
    "kv_cache_sink_tokens": {
        "type": int,
        "metavar": "N",
        "help": "and the first N beside the window",
    },
    "kv_cache_lifecycle": {"choices": get_args(KVCacheLifecycle)},
    "kv_cache_codec": {"choices": get_args(KVCodecId)},
    "kv_cache_memory_budget": {"metavar": "SIZE", "help": "for keys and values, e.g. 2GiB"},
    "offload_gpu_layers": {"type": int, "metavar": "N", "help": "layers on the accelerator"},
    "offload_cpu_layers": {"type": int, "metavar": "N", "help": "layers in host memory"},
    "context_tokens": {"type": int, "metavar": "N", "help": "tokens to plan for"},
    "gpu_memory_budget": {"metavar": "SIZE", "help": "e.g. 6GiB"},
    "cpu_memory_budget": {"metavar": "SIZE", "help": "e.g. 12GiB"},
    "models_dir": {"metavar": "FOLDER", "help": "where managed models are"},
}


def flag(option: str) -> str:
    """``--kv-cache-strategy`` for ``kv_cache_strategy``."""
    return "--" + option.replace("_", "-")


def _add_kv_commands(kv: argparse.ArgumentParser) -> None:
    kv.set_defaults(what=None, all=False, cache_dir=None)
    commands = kv.add_subparsers(dest="kv_command", metavar="|".join(KV_COMMANDS))
    listing = commands.add_parser("list", help="models, tokens, sizes, and when they were used")
    info = commands.add_parser("info", help="the conversations of a model")
    info.add_argument("what", metavar="MODEL", help="its name, or an id of the list")
    remove = commands.add_parser("rm", help="delete pages; they come again by reading again")
    remove.add_argument("what", metavar="MODEL", nargs="?", help="its name, or an id of the list")
    remove.add_argument("--all", action="store_true", help="of all models")
    for command in (listing, info, remove):
        command.add_argument("--cache-dir", metavar="FOLDER", help="where they are, as in a config")


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    for name, settings in CONFIG_OPTIONS.items():
        parser.add_argument(flag(name), dest=name, **settings)
