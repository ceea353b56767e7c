import type { RefObject } from "preact";
import { useHeir } from "./use-heir";

interface Props {
  waiting: boolean;
  /** What takes the focus when there are no further models. */
  heir: RefObject<HTMLElement | null>;
  onMore: () => void;
}

/** Asks for the hub's next models. */
export function MoreButton({ waiting, heir, onMore }: Props) {
  const button = useHeir<HTMLButtonElement>(heir);
  return (
    <button
      ref={button}
      type="button"
      // Not `disabled`, which would drop the focus of the person who has just pressed it.
      aria-disabled={waiting}
      onClick={() => {
        if (!waiting) onMore();
      }}
    >
      More
    </button>
  );
}
