import type { RefObject } from "preact";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { useAsk } from "./use-ask";
import { useHeir } from "./use-heir";

interface Props extends PartProps {
  /** What takes the focus when a model has been chosen. */
  heir: RefObject<HTMLElement | null>;
}

/** What a person sees before the first model is chosen: the way, and a first step to take. */
export function Welcome({ session, heir }: Props) {
  const { ask, problem, dismiss } = useAsk(session);
  const box = useHeir<HTMLDivElement>(heir);
  const first = session.view.models.value.items.find((item) => item.available);
  return (
    <div class="ollm-part" ref={box}>
      <ol class="ollm-first-steps">
        <li>
          <strong>Find a model</strong>
          <span class="ollm-dim">
            Search names, folders and the hub. The words beside each one say how it would run on
            this machine; nothing is downloaded to find out.
          </span>
        </li>
        <li>
          <strong>Look at its plan</strong>
          <span class="ollm-dim">
            Where each layer goes, how much memory it takes and how fast it will be. Change it, and
            see at once what that changes.
          </span>
        </li>
        <li>
          <strong>Load it and talk to it</strong>
          <span class="ollm-dim">
            It runs in this notebook's kernel and stays in memory, next to your variables.
          </span>
        </li>
      </ol>
      {first && (
        <div class="ollm-first-choice">
          <button
            type="button"
            class="ollm-go"
            onClick={() => void ask("choose", { reference: first.reference })}
          >
            Start with {first.name}
          </button>
          <span class="ollm-dim">It is on this machine already.</span>
        </div>
      )}
      <ProblemNote problem={problem} onDismiss={dismiss} />
    </div>
  );
}
