const KEY_EVENTS = ["keydown", "keypress", "keyup"] as const;

/** Keep typed keys from the notebook's shortcuts; the browser's own handling goes on. */
export function keepKeysInside(root: HTMLElement, lifetime: AbortSignal): void {
  for (const name of KEY_EVENTS) {
    root.addEventListener(name, (event) => event.stopPropagation(), { signal: lifetime });
  }
  // Lumino listens in the capture phase, where stopping propagation comes too late; it honours
  // an attribute instead. It looks from the key's target upwards and stops at the first match,
  // and the notebook's shortcuts match whatever has the focus: so that needs the attribute.
  root.addEventListener("focusin", ({ target }) => suppressShortcuts(target), {
    signal: lifetime,
  });
  suppressShortcuts(root);
}

function suppressShortcuts(target: EventTarget | null): void {
  if (target instanceof Element) target.setAttribute("data-lm-suppress-shortcuts", "true");
}
