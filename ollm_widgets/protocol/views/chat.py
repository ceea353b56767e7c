"""Region `Chat`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.protocol.talk import (
    AttachmentView,
    ChatView,
    InstructionsView,
    TrayView,
    Turn,
)
from ollm_widgets.protocol.views.sampling import view_sampling
from ollm_widgets.render.units import format_bytes

if TYPE_CHECKING:
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.session.attachments import Attachment
    from ollm_widgets.session.session import Session


def view_chat(session: Session) -> ChatView:
    """The whole conversation and what can be done next."""
    with session.lock:
        conversation, runtime, departure = session.conversation, session.runtime, session.departure
        transcript, last = conversation.transcript, conversation.last
        limit = runtime.capabilities.context_length if runtime else None
        return ChatView(
            turns=_turns(session),
            busy=conversation.busy,
            can_send=runtime is not None and not conversation.busy,
            hint=_hint(session, runtime),
            status=f"{last.tokens_per_s:.1f} tokens/s" if last and last.tokens_per_s else "",
            context_tokens=transcript.context_tokens,
            context_limit=limit or 0,
            gone="" if runtime or departure is None else departure.how,
            can_reload=runtime is None and departure is not None and not session.loading.active,
            instructions=InstructionsView(
                text=conversation.instructions, note=_instructions_note(session)
            ),
            sampling=view_sampling(conversation.sampling, runtime),
            tray=_tray(session),
        )


def _turns(session: Session) -> tuple[Turn, ...]:
    transcript = session.conversation.transcript
    shown = []
    for turn in transcript.turns:
        versions = transcript.versions(turn)
        shown.append(
            Turn(
                id=turn.id,
                speaker=turn.speaker,
                text=turn.text,
                state=turn.state,
                note=waiting_note(session) if turn.state == "waiting" else turn.note,
                versions=versions if len(versions) > 1 else (),
                attachments=tuple(_attachment(file) for file in turn.attachments),
            )
        )
    return tuple(shown)


def _hint(session: Session, runtime: Runtime | None) -> str:
    if runtime is None:
        return "Load it again to go on." if session.departure else "Load a model to talk to it."
    if not session.conversation.busy and runtime.demoted:
        return f"{runtime.name} is in RAM; the next question brings it back to the GPU."
    if session.conversation.transcript.turns:
        return "Ask something else"
    return f"Ask {runtime.name} something"


def _instructions_note(session: Session) -> str:
    partner = session.partner
    if partner is None or partner.takes_instructions:
        return ""
    return f"{partner.name} knows no instructions; they are put before the first question."


def _tray(session: Session) -> TrayView:
    tray, obstacle = session.conversation.tray, session.image_obstacle
    files = "Text files up to 1 MB" if obstacle else "Text files up to 1 MB, images up to 20 MB"
    why = f" No images: {obstacle}" if obstacle else ""
    return TrayView(
        items=(
            *(_attachment(file) for file in tray.items),
            *(_attachment(file, reading=True) for file in tray.reading),
        ),
        problem=tray.problem,
        help=f"{files}.{why}",
    )


def _attachment(file: Attachment, *, reading: bool = False) -> AttachmentView:
    return AttachmentView(
        id=file.id,
        name=file.name,
        kind=file.kind,
        size=format_bytes(file.size_bytes),
        thumbnail=file.thumbnail,
        reading=reading,
    )


def waiting_note(session: Session) -> str:
    """Say what an answer waits for; empty while its prompt is read."""
    runtime = session.runtime
    if runtime is None:
        return ""
    before = session.conversation.answers_before
    if before:
        return f"{before} answer{'s' if before > 1 else ''} before this one"
    return "Coming back to the GPU" if runtime.demoted else ""
