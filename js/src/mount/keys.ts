const KEY_EVENTS = ["keydown", "keypress", "keyup"] as const;

/** Keep typed keys from the notebook's shortcuts; the browser's own handling goes on. */
export function keepKeysInside(root: HTMLElement, lifetime: AbortSignal): void {
  // Lumino listens in the capture phase, where stopping propagation comes too late; it
  // honours this attribute instead.
  root.dataset.lmSuppressShortcuts = "true";
  for (const name of KEY_EVENTS) {
    root.addEventListener(name, (event) => event.stopPropagation(), { signal: lifetime });
  }
}
