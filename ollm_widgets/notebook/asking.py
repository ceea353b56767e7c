"""What ``%%ollm`` does: the cell is a question, its answer streams, and is kept where asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollm_widgets.errors import ConfigError
from ollm_widgets.notebook.answer import print_answer
from ollm_widgets.notebook.arguments import generation_of
from ollm_widgets.notebook.fill import fill
from ollm_widgets.notebook.printing import say
from ollm_widgets.notebook.talk import Talk
from ollm_widgets.runtime.completion import figures

if TYPE_CHECKING:
    import argparse
    from collections.abc import MutableMapping

    from ollm_widgets.notebook.leasing import Leasing
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.session.session import Session


class Asking:
    """Asks questions for the cells of a notebook.

    Parameters
    ----------
    session
        Whose model in use answers, where a cell names none.
    leasing
        Lends the runtime.
    variables
        The notebook's, which hold conversations and answers.
    """

    def __init__(
        self, session: Session, leasing: Leasing, variables: MutableMapping[str, Any]
    ) -> None:
        self._session = session
        self._leasing = leasing
        self._variables = variables

    def ask(self, arguments: argparse.Namespace, cell: str) -> None:
        """Ask what the cell says; all that can be refused is, before a model is loaded for it.

        Raises
        ------
        ConfigError
            For options that cannot work, and what this model does not take.
        """
        if arguments.into and not arguments.into.isidentifier():
            raise ConfigError("--into", f"{arguments.into!r} is no variable name.")
        generation = generation_of(arguments)
        generation.validate()
        question = (fill(cell, self._variables) if arguments.fill else cell).strip()
        if not question:
            raise ConfigError("%%ollm", "the cell is empty.", hint="Write the question below it.")
        images = tuple(map(_image, arguments.image))
        talk = Talk(self._variables if arguments.chat else {}, arguments.chat or "once")
        lease = self._leasing.lease(arguments.model, multimodal=bool(images))
        if lease is None:
            return
        messages = talk.asking(question, arguments.system, images)
        with lease:
            runtime = lease.runtime
            if images:
                _check_sees(runtime)
            template = bool(images or runtime.chat_traits.has_template)
            if not template:
                _check_plain(runtime, arguments)
            caller = f"%%ollm --chat {arguments.chat}" if arguments.chat else "%%ollm"
            completion = print_answer(
                self._session.manager,
                runtime,
                messages if template else question,
                generation,
                caller=caller,
            )
        if completion is None:
            return
        if arguments.into:
            self._variables[arguments.into] = completion
        if arguments.chat and completion.text:
            talk.keep(messages, completion)
            say(f"[{figures(completion)}]")


def _image(path: str) -> Path:
    image = Path(path).expanduser()
    if not image.is_file():
        raise ConfigError("--image", f"{path} is no file here.", hint="Name an image file.")
    return image


def _check_sees(runtime: Runtime) -> None:
    if "image" in runtime.accepts:
        return
    if "image" in runtime.capabilities.modalities:
        raise ConfigError(
            "--image",
            f"{runtime.name} was loaded for text only.",
            hint=f"%ollm load {runtime.plan.config.model_reference} --multimodal loads it for "
            "images too.",
        )
    raise ConfigError(
        "--image", f"{runtime.name} takes text only.", hint="Name a model that takes images."
    )


def _check_plain(runtime: Runtime, arguments: argparse.Namespace) -> None:
    """Refuse what only messages have, of a model that is given one text."""
    for flag, given in (("--chat", arguments.chat), ("--system", arguments.system)):
        if given:
            raise ConfigError(
                flag,
                f"{runtime.name} has no chat template.",
                hint=f"Leave {flag} out: the cell is then a text that it continues.",
            )
