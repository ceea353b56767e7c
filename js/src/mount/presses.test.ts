import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { keepPresses } from "./presses";

let lifetime: AbortController;
let root: HTMLElement;
let button: HTMLButtonElement;
let elsewhere: HTMLElement;
const clicked = vi.fn();

function pointer(
  name: "pointerdown" | "pointerup",
  target: Element,
  options: PointerEventInit = {},
): void {
  const given = { bubbles: true, pointerId: 1, pointerType: "mouse", button: 0, ...options };
  target.dispatchEvent(new PointerEvent(name, given));
}

beforeEach(() => {
  vi.useFakeTimers();
  lifetime = new AbortController();
  root = document.body.appendChild(document.createElement("div"));
  elsewhere = document.body.appendChild(document.createElement("div"));
  button = root.appendChild(document.createElement("button"));
  button.append(document.createElement("span"));
  button.addEventListener("click", clicked);
  keepPresses(root, lifetime.signal);
});

afterEach(() => {
  lifetime.abort();
  vi.useRealTimers();
  clicked.mockReset();
  document.body.replaceChildren();
});

describe("a press on a button", () => {
  test("counts although the page has scrolled away under it", () => {
    pointer("pointerdown", button.children[0] as Element, { clientX: 40, clientY: 300 });
    pointer("pointerup", elsewhere, { clientX: 42, clientY: 300 });
    vi.runAllTimers();
    expect(clicked).toHaveBeenCalledTimes(1);
  });

  test("counts once where the browser tells of it", () => {
    pointer("pointerdown", button);
    pointer("pointerup", button);
    button.click();
    vi.runAllTimers();
    expect(clicked).toHaveBeenCalledTimes(1);
  });

  test("does not count where the pointer was moved away", () => {
    pointer("pointerdown", button, { clientX: 40, clientY: 300 });
    pointer("pointerup", elsewhere, { clientX: 40, clientY: 330 });
    vi.runAllTimers();
    expect(clicked).not.toHaveBeenCalled();
  });

  test.each([{ pointerType: "touch" }, { button: 2 }])("is the browser's business: %o", (kind) => {
    pointer("pointerdown", button, kind);
    pointer("pointerup", elsewhere, kind);
    vi.runAllTimers();
    expect(clicked).not.toHaveBeenCalled();
  });

  test("does not reach a button that has gone", () => {
    pointer("pointerdown", button);
    button.remove();
    pointer("pointerup", elsewhere);
    vi.runAllTimers();
    expect(clicked).not.toHaveBeenCalled();
  });

  test("elsewhere, or of another pointer, sets nothing off", () => {
    pointer("pointerdown", elsewhere);
    pointer("pointerup", elsewhere);
    pointer("pointerdown", button);
    pointer("pointerup", elsewhere, { pointerId: 2 });
    vi.runAllTimers();
    expect(clicked).not.toHaveBeenCalled();
  });
});
