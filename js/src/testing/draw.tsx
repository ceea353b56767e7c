import { type ComponentChild, render } from "preact";
import { act } from "preact/test-utils";
import { onTestFinished } from "vitest";

/** Draw something by itself on the page; call again to draw it anew in the same place. */
export function place(): { page: HTMLElement; draw: (what: ComponentChild) => Promise<void> } {
  const page = document.body.appendChild(document.createElement("div"));
  onTestFinished(() => {
    render(null, page);
    page.remove();
  });
  return {
    page,
    draw: async (what) => {
      await act(() => render(what, page));
      // What grows is drawn in the next frame.
      await act(() => new Promise<void>((done) => requestAnimationFrame(() => done())));
    },
  };
}
