import type { ComponentType } from "preact";
import { act } from "preact/test-utils";
import { onTestFinished } from "vitest";
import { widget } from "../mount/widget";
import type { PartProps } from "../parts/props";
import type { Snapshot } from "../protocol";
import { FakeModel } from "./model";
import { find } from "./roles";

/** Draw one part as a widget over a model in memory. */
export async function show(Part: ComponentType<PartProps>, snapshot: Snapshot) {
  const model = new FakeModel(snapshot);
  const { initialize, render } = widget(Part)();
  const el = document.body.appendChild(document.createElement("div"));
  const dispose = initialize({ model });
  let remove = () => {};
  await act(() => {
    remove = render({ model, el });
  });
  onTestFinished(() => {
    remove();
    dispose();
    el.remove();
  });
  return {
    model,
    el,
    by: (role: string, name?: string) => find(el, role, name),
    text: () => el.textContent ?? "",
    /** Let the kernel or a person act, then wait until everything is drawn. */
    act: async (does: () => void) => {
      await act(does);
      // Replies settle promises, which redraw after the act.
      await act(async () => {
        await Promise.resolve();
      });
    },
  };
}

export function type(element: HTMLElement, text: string): void {
  const box = element as HTMLInputElement | HTMLTextAreaElement;
  box.focus();
  box.value = text;
  box.dispatchEvent(new InputEvent("input", { bubbles: true }));
}

export function press(element: HTMLElement, key: string, more: KeyboardEventInit = {}): void {
  element.dispatchEvent(
    new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }),
  );
}
