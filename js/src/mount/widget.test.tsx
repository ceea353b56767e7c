import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { REPLY_TIMEOUT_MS } from "../link/link";
import { Chat } from "../parts/chat";
import { FakeModel } from "../testing/model";
import { find } from "../testing/roles";
import { press, show, type } from "../testing/show";
import { snapshot, turn } from "../testing/views";
import { widget } from "./widget";

const busy = { ...snapshot().chat, busy: true, turns: [turn("1", "model", "")] };

function place(): HTMLElement {
  return document.body.appendChild(document.createElement("div"));
}

afterEach(() => document.body.replaceChildren());

describe("views of one model", () => {
  test("agree, although the host hands each a proxy of its own", async () => {
    const model = new FakeModel(snapshot());
    const { initialize, render } = widget(Chat)();
    initialize({ model: model.proxy() });
    const [left, right] = [place(), place()];
    await act(() => {
      render({ model: model.proxy(), el: left });
      render({ model: model.proxy(), el: right });
    });
    await act(() => model.event("chat", 1, { ...snapshot().chat, status: "19.8 tokens/s" }));
    expect(left.textContent).toContain("19.8 tokens/s");
    expect(right.textContent).toContain("19.8 tokens/s");
    expect(model.commands("hello")).toHaveLength(1);
  });

  test("leave the others alone when one goes", async () => {
    const model = new FakeModel(snapshot());
    const { initialize, render } = widget(Chat)();
    const close = initialize({ model });
    const [left, right] = [place(), place()];
    let remove = () => {};
    await act(() => {
      remove = render({ model, el: left });
      render({ model, el: right });
    });
    remove();
    await act(() => model.event("chat", 1, { ...snapshot().chat, status: "still here" }));
    expect(left.innerHTML).toBe("");
    expect(right.textContent).toContain("still here");
    close();
    expect(model.listening).toBe(0);
  });

  test("work where the host does not initialize", async () => {
    const model = new FakeModel(snapshot());
    const el = place();
    let remove = () => {};
    await act(() => {
      remove = widget(Chat)().render({ model, el });
    });
    expect(model.commands("hello")).toHaveLength(1);
    expect(find(el, "region", "Chat")).toBeTruthy();
    remove();
    expect(model.listening).toBe(0);
  });

  test("of two models in one host stay apart", async () => {
    const [first, second] = [new FakeModel(snapshot()), new FakeModel(snapshot())];
    const { initialize, render } = widget(Chat)();
    initialize({ model: first });
    initialize({ model: second });
    const [left, right] = [place(), place()];
    await act(() => {
      render({ model: first, el: left });
      render({ model: second, el: right });
    });
    await act(() => second.event("chat", 1, { ...snapshot().chat, status: "second" }));
    expect(left.textContent).not.toContain("second");
    expect(right.textContent).toContain("second");
  });
});

test("typed keys stay inside and keep their own meaning", async () => {
  const { by, el } = await show(Chat, snapshot());
  const reached = vi.fn();
  for (const name of ["keydown", "keypress", "keyup"]) el.addEventListener(name, reached);
  const key = new KeyboardEvent("keydown", { key: "a", bubbles: true, cancelable: true });
  by("textbox", "Message").dispatchEvent(key);
  press(by("textbox", "Message"), "Escape");
  expect(reached).not.toHaveBeenCalled();
  expect(key.defaultPrevented).toBe(false);
  by("log", "Conversation").focus();
  expect(document.activeElement?.getAttribute("data-lm-suppress-shortcuts")).toBe("true");
});

test("another version of the kernel side replaces the view by what to do", async () => {
  const { model, act, text } = await show(Chat, snapshot());
  await act(() => model.receive({ v: 99, kind: "chat", seq: 1, body: {} }));
  expect(text()).toBe("This view is from another version of ollm-widgets; run the cell again.");
});

describe("a kernel that does not answer", () => {
  beforeEach(() => {
    vi.useFakeTimers();
    return () => vi.useRealTimers();
  });

  test("is reported until anything is heard from it", async () => {
    const { model, act, text } = await show(Chat, snapshot({ chat: busy }));
    await act(() => void vi.advanceTimersByTime(REPLY_TIMEOUT_MS));
    expect(text()).toContain("The kernel is busy or was restarted.");
    await act(() => model.event("header", 1, { title: "back" }));
    expect(text()).not.toContain("The kernel is busy or was restarted.");
  });

  test("does not keep a message from being sent again", async () => {
    const { model, by, act } = await show(Chat, snapshot());
    await act(() => type(by("textbox", "Message"), "Hi"));
    await act(() => by("button", "Send").click());
    expect(by("button", "Send")).toHaveProperty("disabled", true);
    await act(() => void vi.advanceTimersByTime(REPLY_TIMEOUT_MS));
    await act(() => by("button", "Send").click());
    expect(model.commands("send")).toHaveLength(2);
    expect(by("textbox", "Message")).toHaveProperty("value", "Hi");
  });
});
