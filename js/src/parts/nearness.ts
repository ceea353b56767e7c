import type { Signal } from "@preact/signals";

/** How far outside the box a turn is drawn already, so that scrolling meets no undrawn one. */
const MARGIN_PX = 800;
/** About what a turn takes to draw, on a slow machine. */
const TURN_MS = 6;
// Safari has no requestIdleCallback.
const PAUSE_MS = 50;
const PAUSE_FREE_MS = 12;

/** Has the turns of a long conversation drawn: those near what is in sight, the others in idle time. */
export class Nearness {
  #undrawn = new Map<Element, Signal<boolean>>();
  #observer: IntersectionObserver | undefined;
  #cancelWait: (() => void) | undefined;

  constructor(root: Element) {
    if (typeof IntersectionObserver === "undefined") return;
    this.#observer = new IntersectionObserver((entries) => this.#onMove(entries), {
      root,
      rootMargin: `${MARGIN_PX}px 0px`,
    });
  }

  /** Say when an element is to be drawn, unless the returned function is called before. */
  watch(element: Element, drawn: Signal<boolean>): () => void {
    if (this.#observer) {
      this.#undrawn.set(element, drawn);
      this.#observer.observe(element);
      this.#waitForTime();
    } else {
      drawn.value = true;
    }
    return () => this.#forget(element);
  }

  close(): void {
    this.#observer?.disconnect();
    this.#cancelWait?.();
  }

  #onMove(entries: IntersectionObserverEntry[]): void {
    for (const { target, isIntersecting } of entries) if (isIntersecting) this.#draw(target);
  }

  #waitForTime(): void {
    this.#cancelWait ??= whenIdle((freeMs) => {
      this.#cancelWait = undefined;
      const count = Math.max(1, Math.floor(freeMs / TURN_MS));
      // From the end, where the reader is.
      for (const element of [...this.#undrawn.keys()].slice(-count)) this.#draw(element);
      if (this.#undrawn.size > 0) this.#waitForTime();
    });
  }

  #draw(element: Element): void {
    const drawn = this.#undrawn.get(element);
    this.#forget(element);
    if (drawn) drawn.value = true;
  }

  #forget(element: Element): void {
    this.#undrawn.delete(element);
    this.#observer?.unobserve(element);
  }
}

function whenIdle(work: (freeMs: number) => void): () => void {
  if (typeof requestIdleCallback === "undefined") {
    const timer = setTimeout(work, PAUSE_MS, PAUSE_FREE_MS);
    return () => clearTimeout(timer);
  }
  const handle = requestIdleCallback((deadline) => work(deadline.timeRemaining()));
  return () => cancelIdleCallback(handle);
}
