import { useState } from "preact/hooks";
import type { CommandBody, CommandName, Outcome } from "../link/link";
import type { Problem } from "../protocol";
import type { Session } from "../state/session";

/** Send commands, and hold the error that the last one met until it is dismissed. */
export function useAsk(session: Session) {
  const [problem, setProblem] = useState<Problem | null>(null);

  async function ask<N extends CommandName>(
    name: N,
    body: NonNullable<CommandBody<N>>,
    buffers: ArrayBuffer[] = [],
  ): Promise<Outcome> {
    setProblem(null);
    const outcome = await session.link.ask(name, body, buffers);
    if (!outcome.ok) setProblem(outcome.problem);
    return outcome;
  }

  return { ask, problem, dismiss: () => setProblem(null) };
}
