const TEXT_FIELDS = "textarea, input:not([type=checkbox], [type=radio], [type=file])";
const REGIONS = "section, [tabindex]";

/**
 * Hand the focus to what is near when what holds it goes or is disabled: to a text field beside
 * it, else to the region around it. Without this it falls to the notebook, whose shortcuts are
 * single letters. Never to a button, which a second press would set off.
 */
export function keepFocusInside(root: HTMLElement, lifetime: AbortSignal): void {
  let held: HTMLElement | null = null;
  // Remembered, since what has been removed no longer knows where it was.
  let around: HTMLElement[] = [];

  root.addEventListener(
    "focusin",
    ({ target }) => {
      if (!(target instanceof HTMLElement)) return;
      held = target;
      around = ancestors(target, root);
    },
    { signal: lifetime },
  );
  root.addEventListener(
    "focusout",
    () => {
      // Browsers say this of what is about to be taken out of the page too.
      queueMicrotask(() => {
        // In a window that is behind another one, what had the focus keeps it.
        if (held && isUsable(held) && activeIn(root) !== held) held = null;
      });
    },
    { signal: lifetime },
  );

  // Called before the next frame, so that no key falls through.
  const observer = new MutationObserver(() => {
    if (!held || isUsable(held)) return;
    const active = activeIn(root);
    const lost = active === null || active === held || active === document.body;
    held = null;
    if (lost) focusOneOf(around);
  });
  observer.observe(root, {
    subtree: true,
    childList: true,
    attributes: true,
    attributeFilter: ["disabled"],
  });
  lifetime.addEventListener("abort", () => observer.disconnect(), { once: true });
}

function isUsable(element: HTMLElement): boolean {
  return element.isConnected && !element.matches(":disabled");
}

/** What has the focus; in a host's shadow root the document would name the host. */
function activeIn(root: HTMLElement): Element | null {
  return (root.getRootNode() as Document | ShadowRoot).activeElement;
}

function ancestors(element: HTMLElement, root: HTMLElement): HTMLElement[] {
  const found: HTMLElement[] = [];
  for (let at = element.parentElement; at && at !== root; at = at.parentElement) found.push(at);
  return found;
}

function focusOneOf(around: HTMLElement[]): void {
  for (const element of around) {
    if (!element.isConnected) continue;
    if (element.matches(REGIONS)) {
      if (!element.hasAttribute("tabindex")) element.tabIndex = -1;
      element.focus({ preventScroll: true });
      return;
    }
    const field = [...element.querySelectorAll<HTMLElement>(TEXT_FIELDS)].find(isUsable);
    if (field) {
      field.focus({ preventScroll: true });
      return;
    }
  }
}
