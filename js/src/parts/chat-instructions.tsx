import type { InstructionsView } from "../protocol";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { useAsk } from "./use-ask";
import { useId } from "./use-id";
import { useTyped } from "./use-typed";

const SEND_AFTER_MS = 500;

/** What the model is told before the first question. */
export function ChatInstructions({
  instructions,
  session,
}: { instructions: InstructionsView } & PartProps) {
  const { ask, problem, dismiss } = useAsk(session);
  const id = useId();
  const typed = useTyped(
    instructions.text,
    SEND_AFTER_MS,
    (text) => void ask("instruct", { text }),
  );
  return (
    <div class="ollm-chat-panel">
      <textarea
        aria-label="Instructions"
        aria-describedby={`${id}-help`}
        rows={Math.min(8, Math.max(2, typed.text.split("\n").length))}
        placeholder="Told to the model before the first question, such as: Answer in one sentence."
        value={typed.text}
        onInput={(event) => typed.onInput(event.currentTarget.value)}
        onFocus={typed.onFocus}
        onBlur={typed.onBlur}
      />
      <span id={`${id}-help`} class="ollm-dim ollm-small">
        {["They apply from the next answer on.", instructions.note].filter(Boolean).join(" ")}
      </span>
      <ProblemNote problem={problem} onDismiss={dismiss} />
    </div>
  );
}
