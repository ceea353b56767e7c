"""Commands from the page: validated, handed to the session, answered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

import msgspec

from ollm_widgets.errors import OllmError, ProtocolError
from ollm_widgets.protocol import commands as m
from ollm_widgets.protocol.pieces import Problem
from ollm_widgets.protocol.snapshot import PROTOCOL_VERSION
from ollm_widgets.protocol.views.loading import problem_of

if TYPE_CHECKING:
    from ollm_widgets.protocol.outbox import Outbox
    from ollm_widgets.session.session import Session

_log = logging.getLogger(__name__)

MOST_OF_A_REASON = 400  # characters; it may quote the message


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
        msgspec.json.encode(command)  # half a surrogate pair could not be sent back
        return command
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        why = _sendable(str(error), MOST_OF_A_REASON)
        raise ProtocolError(f"The message does not follow the protocol: {why}.") from error


class Inbox:
    """Answers each message with exactly one reply; never blocks and never raises."""

    def __init__(self, session: Session, outbox: Outbox) -> None:
        self._session = session
        self._outbox = outbox

    def receive(self, content: object, buffers: Sequence[bytes | memoryview] | None = None) -> None:
        """Handle one custom message of the page, on whatever thread it comes."""
        reply: m.Reply
        command: m.AnyCommand | None = None
        try:
            command = decode_command(content)
            job = run_command(command, self._session, _one_piece(command, buffers))
            text = _exported(command, self._session)
            reply = m.Ack(v=PROTOCOL_VERSION, id=command.id, job=job, text=text)
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
        id=_sendable(command_id, 128) if isinstance(command_id, str) else "",
        body=problem,
    )


def _sendable(text: str, most: int) -> str:
    """The beginning of what a page has sent, as text that UTF-8 can carry."""
    return text[:most].encode("utf-8", "replace").decode()


def _one_piece(command: m.AnyCommand, buffers: Sequence[bytes | memoryview] | None) -> bytes:
    """Return the bytes of a file that came beside a command; empty for other commands."""
    if not isinstance(command, m.Attach):
        return b""
    if not buffers or len(buffers) != 1 or memoryview(buffers[0]).nbytes > m.MOST_OF_A_PIECE:
        raise ProtocolError(
            f"A piece of a file comes as one buffer of at most {m.MOST_OF_A_PIECE:,} bytes."
        )
    return bytes(buffers[0])


def _exported(command: m.AnyCommand, session: Session) -> str:
    """Return the conversation as text, where the command asks for it."""
    if not isinstance(command, m.Export):
        return ""
    conversation = session.conversation
    text = (
        conversation.to_markdown() if command.body.form == "markdown" else conversation.to_python()
    )
    return text.encode("utf-8", "replace").decode()


def run_command(command: m.AnyCommand, session: Session, piece: bytes = b"") -> str | None:  # noqa: PLR0911, PLR0912  (one case a command)
    """Do what `command` asks; returns the id of the job it started, if any."""
    match command:
        case m.Hello():
            return None if session.browser.listed else session.browser.refresh()
        case m.Resync() | m.Export():
            pass  # the snapshot that follows the reply, or the reply, is all they ask for
        case m.Search(body=body):
            return session.browser.search(body.text)
        case m.More():
            return session.browser.more()
        case m.Remove(body=body):
            return session.remove(body.reference)
        case m.Choose(body=body):
            return session.choose(body.reference)
        case m.Edit(body=body):
            return session.desk.edit(body.field, body.value)
        case m.Place(body=body):
            return session.desk.place(body.gpu_layers, body.ram_layers, settled=body.settled)
        case m.Preset(body=body):
            return session.desk.apply_preset(body.preset)
        case m.Undo():
            return session.desk.undo()
        case m.Redo():
            return session.desk.redo()
        case m.Load(body=body):
            return session.load(anyway=body.anyway)
        case m.Cancel():
            session.cancel_load()
        case m.Unload(body=body):
            return session.keeping.unload(body.runtime, force=body.force)
        case m.Demote(body=body):
            return session.keeping.demote(body.runtime)
        case m.Ask(body=body):
            return session.keeping.ask(body.holder)
        case m.Reload():
            return session.reload()
        case m.Pin(body=body):
            session.keeping.pin(body.runtime, body.pinned)
        case m.Use(body=body):
            session.use(body.runtime)
        case m.Send(body=body):
            return session.send(body.text)
        case m.Stop():
            session.conversation.stop()
        case m.Retry(body=body):
            return session.retry(body.turn)
        case m.EditTurn(body=body):
            return session.edit_turn(body.turn, body.text)
        case m.Show(body=body):
            session.conversation.show(body.turn)
        case m.Instruct(body=body):
            session.conversation.instruct(body.text)
        case m.Sample(body=body):
            session.conversation.set_sampling(body.field, body.value)
        case m.SamplingPreset(body=body):
            session.conversation.apply_sampling_preset(body.preset)
        case m.Attach(body=body):
            return session.attach(body.upload, body.name, piece, last=body.last)
        case m.Detach(body=body):
            session.conversation.tray.remove(body.attachment)
        case m.Trace(body=body):
            return session.activity.trace(body.on)
        case m.Inspect(body=body):
            session.activity.inspect(body.token)
        case m.Clear():
            session.conversation.clear()
        case _:
            assert_never(command)
    return None
