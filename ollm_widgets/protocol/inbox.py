"""Commands from the page: validated, handed to the session, answered."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from ollm_widgets.errors import OllmError, ProtocolError
from ollm_widgets.protocol import commands as m
from ollm_widgets.protocol.snapshot import PROTOCOL_VERSION, Problem
from ollm_widgets.protocol.views.loading import problem_of

if TYPE_CHECKING:
    from ollm_widgets.protocol.outbox import Outbox
    from ollm_widgets.session.session import Session

_log = logging.getLogger(__name__)


def decode_command(content: object) -> m.AnyCommand:
    """Check a message against the schema.

    Raises
    ------
    ProtocolError
        For anything that is not a command of this version; it says where and why.
    """
    if not isinstance(content, dict):
        raise ProtocolError("The message is not an object.")
    if content.get("v") != PROTOCOL_VERSION:
        raise ProtocolError(
            f"This page speaks another version of the protocol than the kernel "
            f"({PROTOCOL_VERSION}).",
            hint="Run the cell again.",
        )
    try:
        command: m.AnyCommand = msgspec.convert(content, m.AnyCommand)
        return command
    except msgspec.ValidationError as error:
        raise ProtocolError(f"The message does not follow the protocol: {error}.") from error


class Inbox:
    """Answers each message with exactly one reply; never blocks and never raises."""

    def __init__(self, session: Session, outbox: Outbox) -> None:
        self._session = session
        self._outbox = outbox

    def receive(self, content: object) -> None:
        """Handle one custom message of the page, on whatever thread it comes."""
        reply: m.Reply
        command: m.AnyCommand | None = None
        try:
            command = decode_command(content)
            reply = m.Ack(
                v=PROTOCOL_VERSION, id=command.id, job=run_command(command, self._session)
            )
        except OllmError as error:
            reply = _failure(content, problem_of(error))
        except Exception as error:  # a page must get its answer, whatever went wrong
            _log.exception("A command of the page failed.")
            problem = Problem(code="internal", message=f"{type(error).__name__}: {error}")
            reply = _failure(content, problem)
        self._outbox.reply(reply, then_snapshot=isinstance(command, m.Hello | m.Resync))


def _failure(content: object, problem: Problem) -> m.Failure:
    command_id = content.get("id") if isinstance(content, dict) else None
    return m.Failure(
        v=PROTOCOL_VERSION,
        id=command_id[:128] if isinstance(command_id, str) else "",
        body=problem,
    )


@functools.singledispatch
def run_command(command: Any, session: Session) -> str | None:
    """Do what `command` asks; returns the id of the job it started, if any."""
    raise ProtocolError(f"Unknown command {type(command).__name__}.")


@run_command.register
def _(command: m.Hello, session: Session) -> str | None:
    return None if session.models else session.refresh_models()


@run_command.register
def _(command: m.Resync, session: Session) -> None:
    return None


@run_command.register
def _(command: m.Search, session: Session) -> str:
    return session.search(command.body.text)


@run_command.register
def _(command: m.Choose, session: Session) -> str:
    return session.choose(command.body.reference)


@run_command.register
def _(command: m.Edit, session: Session) -> str:
    return session.edit(command.body.field, command.body.value)


@run_command.register
def _(command: m.Load, session: Session) -> str:
    return session.load()


@run_command.register
def _(command: m.Cancel, session: Session) -> None:
    session.cancel_load()


@run_command.register
def _(command: m.Unload, session: Session) -> str:
    return session.unload(command.body.runtime)


@run_command.register
def _(command: m.Pin, session: Session) -> None:
    session.pin(command.body.runtime, command.body.pinned)


@run_command.register
def _(command: m.Use, session: Session) -> None:
    session.use(command.body.runtime)


@run_command.register
def _(command: m.Send, session: Session) -> str:
    return session.send(command.body.text)


@run_command.register
def _(command: m.Stop, session: Session) -> None:
    session.conversation.stop()


@run_command.register
def _(command: m.Retry, session: Session) -> str:
    return session.retry(command.body.turn)


@run_command.register
def _(command: m.EditTurn, session: Session) -> str:
    return session.edit_turn(command.body.turn, command.body.text)


@run_command.register
def _(command: m.Clear, session: Session) -> None:
    session.conversation.clear()
