import { type Signal, signal } from "@preact/signals";
import { Latest } from "../link/latest";
import type { Link } from "../link/link";
import type { PlaceBody, Problem } from "../protocol";

/** The least time between two plans of a drag: a plan takes less than that. */
const REST_MS = 50;

/** Layers on their way between tiers: the kernel hears the latest place, and each one that stays. */
export class Moves {
  readonly problem: Signal<Problem | null> = signal(null);
  #sender: Latest<PlaceBody>;

  constructor(link: Link) {
    const send = async (body: PlaceBody) => {
      const outcome = await link.ask("place", body);
      this.problem.value = outcome.ok ? null : outcome.problem;
    };
    this.#sender = new Latest(send, REST_MS, (body) => body.settled);
  }

  /** Resolves when the kernel has heard everything; what comes next must not overtake it. */
  get heard(): Promise<void> {
    return this.#sender.idle;
  }

  push(body: PlaceBody): void {
    this.#sender.push(body);
  }
}
