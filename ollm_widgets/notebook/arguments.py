"""What can be typed after ``%ollm`` and ``%%ollm``."""

from __future__ import annotations

import argparse
import shlex
from typing import Any, NoReturn, TypeAlias, get_args

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

COMMANDS = (
    "plan",
    "load",
    "list",
    "search",
    "info",
    "download",
    "rm",
    "memory",
    "unload",
    "pin",
    "unpin",
    "demote",
    "config",
    "cluster",
    "kv",
    "doctor",
)


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(self.prog, f"{message}.", hint=f"Type {self.prog} --help for help.")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpShown


# What argparse returns, and does not name in public.
_Commands: TypeAlias = "argparse._SubParsersAction[Any]"


class HelpShown(Exception):  # noqa: N818  (control flow: --help has printed the help)
    """The help was asked for and has been printed."""


def line_parser() -> argparse.ArgumentParser:
    """Parser of ``%ollm``."""
    parser = _Parser(
        prog="%ollm",
        description="Run language models in this kernel. Without a command: the workbench.",
        epilog="%ollm COMMAND --help lists the options of a command. In a cell of its own, "
        "%%ollm sends what is below it to the model; %%ollm --help lists its options.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    plan = _command(commands, "plan", "what would run, does it fit, how fast; loads nothing")
    load = _command(commands, "load", "load a model, or return it if it is loaded")
    for command in (plan, load):
        command.add_argument("model", nargs="?", help="alias, hub id, folder or GGUF file")
        _add_config_options(command)
    load.add_argument("--anyway", action="store_true", help="although there is no room for it")
    plan.add_argument("--why", action="store_true", help="tell it in sentences, with a way to more")
    _command(commands, "list", "models in memory, of the catalog and on this machine")
    search = _command(commands, "search", "models on this machine and on the hub")
    search.add_argument("words", nargs="+", help="words of the name")
    search.add_argument("--task", metavar="TASK", help="e.g. text-generation")
    search.add_argument("--sort", choices=get_args(Sort), default="downloads")
    search.add_argument("--page", type=int, default=1, metavar="N")
    search.add_argument("--local", action="store_true", help="do not ask the hub")
    info = _command(commands, "info", "what a model is and can do")
    info.add_argument("model", nargs="?", help="a reference; by default the model in use")
    download = _command(commands, "download", "bring a model's files to this machine")
    download.add_argument("model", help="alias or hub id")
    download.add_argument("--force", action="store_true", help="fetch again what is here")
    remove = _command(commands, "rm", "delete a model's files; asks first")
    remove.add_argument("model", help="alias, hub id or managed folder")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    unload = _command(commands, "unload", "give a model's memory back")
    unload.add_argument("model", nargs="?", help="a loaded model; by default the one in use")
    unload.add_argument("--all", action="store_true", help="every loaded model")
    unload.add_argument("--force", action="store_true", help="stop a running answer first")
    _command(commands, "memory", "what is in memory, and how full that is")
    for name, what in (
        ("pin", "keep a model in memory"),
        ("unpin", "let a pinned model leave again"),
        ("demote", "move a model from the GPU to RAM; the next question brings it back"),
    ):
        command = _command(commands, name, what)
        command.add_argument("model", nargs="?", help="a loaded model; by default the one in use")
    config = _command(commands, "config", "how long models stay in memory; shows or changes")
    config.add_argument("name", nargs="?", help="e.g. idle_timeout; without a name all are shown")
    config.add_argument("value", nargs="*", help="e.g. 15m")
    _command(commands, "cluster", "the nodes of the cluster, and what they hold; joins it")
    _add_kv_commands(_command(commands, "kv", "what prompts have left on disk"))
    doctor = _command(commands, "doctor", "what this machine is, and what to mend")
    doctor.add_argument("--measure", action="store_true", help="measure its speeds now, in seconds")
    return parser


def cell_parser() -> argparse.ArgumentParser:
    """Parser of ``%%ollm``."""
    parser = _Parser(
        prog="%%ollm",
        description="Send the cell to a model and stream its answer.",
        epilog="Without --fill, braces in the cell are text. Without a temperature, the likeliest "
        "token is taken each time.",
    )
    parser.add_argument("model", nargs="?", help="by default the model in use")
    parser.add_argument(
        "-f",
        "--fill",
        action="store_true",
        help="replace {expression} in the cell by its value, as an f-string does",
    )
    parser.add_argument("--into", metavar="NAME", help="keep the Completion in this variable")
    parser.add_argument("--chat", metavar="NAME", help="go on with the conversation of that name")
    parser.add_argument("--system", metavar="TEXT", help="instruction before the question")
    parser.add_argument(
        "--image",
        action="append",
        metavar="PATH",
        default=[],
        help="show it an image; may be repeated",
    )
    for name, settings in GENERATION_OPTIONS.items():
        parser.add_argument(flag(name), dest=name, **settings)
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
    given: dict[str, Any] = {name: getattr(arguments, name) for name in GENERATION_OPTIONS}
    return GenerationConfig(**{name: value for name, value in given.items() if value is not None})


GENERATION_OPTIONS: dict[str, dict[str, Any]] = {
    "max_new_tokens": {"type": int, "metavar": "N", "help": "the most tokens of an answer"},
    "temperature": {"type": float, "metavar": "T", "help": "0, the default, is greedy"},
    "top_p": {"type": float, "metavar": "P", "help": "sample from this share of the probability"},
    "top_k": {"type": int, "metavar": "N", "help": "sample from so many tokens"},
    "min_p": {
        "type": float,
        "metavar": "P",
        "help": "leave out what is less likely than this share of the likeliest",
    },
    "repetition_penalty": {
        "type": float,
        "metavar": "R",
        "help": "above 1: words that were used become less likely",
    },
    "seed": {"type": int, "metavar": "N", "help": "make sampling repeatable"},
    "stop": {"action": "append", "metavar": "TEXT", "help": "end the answer here; may be repeated"},
}
CONFIG_OPTIONS: dict[str, dict[str, Any]] = {
    "backend": {"choices": get_args(BackendId)},
    "device": {"metavar": "DEVICE", "help": "auto, cpu, cuda, cuda:1, mps, ray"},
    "dtype": {"choices": get_args(DTypeChoice)},
    "multimodal": {"action": "store_true", "default": None, "help": "take images too"},
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


def _command(commands: _Commands, name: str, what: str) -> argparse.ArgumentParser:
    """Add a command that says `what` it does in the list of commands and in its own help."""
    description = f"{what[0].upper()}{what[1:]}."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=description)
    return parser


def _add_kv_commands(kv: argparse.ArgumentParser) -> None:
    kv.set_defaults(what=None, all=False, cache_dir=None)
    commands = kv.add_subparsers(dest="kv_command", metavar="COMMAND", title="commands")
    listing = _command(commands, "list", "models, tokens, sizes, and when they were used")
    info = _command(commands, "info", "the conversations of a model")
    info.add_argument("what", metavar="MODEL", help="its name, or an id of the list")
    remove = _command(commands, "rm", "delete pages; they come again by reading again")
    remove.add_argument("what", metavar="MODEL", nargs="?", help="its name, or an id of the list")
    remove.add_argument("--all", action="store_true", help="of all models")
    for command in (listing, info, remove):
        command.add_argument("--cache-dir", metavar="FOLDER", help="where they are, as in a config")


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    for name, settings in CONFIG_OPTIONS.items():
        parser.add_argument(flag(name), dest=name, **settings)
