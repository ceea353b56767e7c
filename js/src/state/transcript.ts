import type { ChatView, TextDelta } from "../protocol";

/** The conversation with text added to one turn; every other turn keeps its identity. */
export function appendText(chat: ChatView, delta: TextDelta): ChatView {
  return {
    ...chat,
    turns: chat.turns.map((turn) =>
      turn.id === delta.turn
        ? {
            ...turn,
            text: turn.text + delta.text,
            state: turn.state === "waiting" ? "streaming" : turn.state,
          }
        : turn,
    ),
  };
}
