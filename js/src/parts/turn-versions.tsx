import { useContext, useLayoutEffect, useRef } from "preact/hooks";
import type { Turn } from "../protocol";
import { STROKES } from "./strokes";
import { TurnActionsContext } from "./turn-actions";

/** Which of several versions of a turn is shown, and the way to the others. */
export function TurnVersions({ turn, busy }: { turn: Turn; busy: boolean }) {
  const place = turn.versions.indexOf(turn.id);
  const to = (step: number) => (busy ? undefined : turn.versions[place + step]);
  return (
    <span class="ollm-versions">
      <Step name="Previous version" turn={turn.id} to={to(-1)} stroke={STROKES.back} />
      <span class="ollm-dim ollm-small">
        {place + 1} / {turn.versions.length}
      </span>
      <Step name="Next version" turn={turn.id} to={to(1)} stroke={STROKES.forth} />
    </span>
  );
}

interface StepProps {
  name: "Previous version" | "Next version";
  turn: string;
  to: string | undefined;
  stroke: string;
}

function Step({ name, turn, to, stroke }: StepProps) {
  const actions = useContext(TurnActionsContext);
  const button = useRef<HTMLButtonElement>(null);

  useLayoutEffect(() => {
    // Each version is an article of its own, and whoever pages on keeps the button.
    if (actions.pressed?.turn !== turn || actions.pressed.name !== name) return;
    actions.pressed = null;
    button.current?.focus({ preventScroll: true });
  }, [actions, turn, name]);

  return (
    <button
      ref={button}
      type="button"
      class="ollm-quiet ollm-icon"
      aria-label={name}
      title={name}
      // Not `disabled`, which would drop the focus of whoever presses it to the end.
      aria-disabled={to === undefined}
      onClick={() => {
        if (to === undefined) return;
        actions.pressed = { turn: to, name };
        actions.show(to);
      }}
    >
      <svg viewBox="0 0 16 16" aria-hidden="true">
        <path d={stroke} fill="none" />
      </svg>
    </button>
  );
}
