"""Region `Chat`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.protocol.snapshot import ChatView, Turn

if TYPE_CHECKING:
    from ollm_widgets.session.session import Session


def view_chat(session: Session) -> ChatView:
    """The whole conversation and what can be done next."""
    with session.lock:
        conversation, runtime = session.conversation, session.runtime
        last = conversation.last
        if runtime is None:
            hint = "Load a model to talk to it."
        elif conversation.transcript.turns:
            hint = "Ask something else"
        else:
            hint = f"Ask {runtime.name} something"
        limit = runtime.capabilities.context_length if runtime else None
        return ChatView(
            turns=tuple(
                Turn(
                    id=turn.id,
                    speaker=turn.speaker,
                    text=turn.text,
                    state=turn.state,
                    note=turn.note,
                )
                for turn in conversation.transcript.turns
            ),
            busy=conversation.busy,
            can_send=runtime is not None and not conversation.busy,
            hint=hint,
            status=f"{last.tokens_per_s:.1f} tokens/s" if last and last.tokens_per_s else "",
            context_tokens=last.prompt_tokens + last.new_tokens if last else 0,
            context_limit=limit or 0,
        )
