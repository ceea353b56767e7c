/** A pointer that has moved no further is still. */
const STILL_PX = 8;
const PRESSABLE = "button, summary, [role=option]";

interface Press {
  pressed: HTMLElement;
  pointer: number;
  x: number;
  y: number;
}

/**
 * Let a press count that ends where it began, whatever has moved away from under it meanwhile.
 *
 * A notebook selects the cell that is pressed, and may scroll to it before the mouse button is let
 * go; an answer grows. The browser sees the press end on another element then, and tells nobody of
 * a click. A finger's taps are not concerned: they end in a cancel where something scrolls.
 */
export function keepPresses(root: HTMLElement, lifetime: AbortSignal): void {
  let press: Press | null = null;
  const options = { capture: true, signal: lifetime };

  root.addEventListener(
    "pointerdown",
    ({ target, pointerType, pointerId, button, clientX: x, clientY: y }) => {
      const pressed = target instanceof Element ? target.closest<HTMLElement>(PRESSABLE) : null;
      const counts = pressed !== null && pointerType === "mouse" && button === 0;
      press = counts ? { pressed, pointer: pointerId, x, y } : null;
    },
    options,
  );
  root.addEventListener(
    "click",
    ({ target }) => {
      if (target instanceof Node && press?.pressed.contains(target)) press = null;
    },
    options,
  );
  window.addEventListener(
    "pointerup",
    ({ pointerId, clientX, clientY }) => {
      const ended = press;
      if (ended === null || ended.pointer !== pointerId) return;
      const still = Math.hypot(clientX - ended.x, clientY - ended.y) <= STILL_PX;
      // The browser's own click, where it finds one, comes before anything that waits.
      setTimeout(() => {
        if (press !== ended) return;
        press = null;
        if (still && ended.pressed.isConnected) ended.pressed.click();
      });
    },
    options,
  );
}
