import { describe, expect, test } from "vitest";
import { all } from "../testing/roles";
import { press, show, type } from "../testing/show";
import { snapshot, turn } from "../testing/views";
import { Chat } from "./chat";

const chat = snapshot().chat;
const talk = { ...chat, turns: [turn("1", "you", "Hi"), turn("2", "model", "**Hello**")] };

describe("a message", () => {
  test("leaves the box only when the kernel has taken it", async () => {
    const { model, by, act } = await show(Chat, snapshot());
    const box = by("textbox", "Message") as HTMLTextAreaElement;
    await act(() => type(box, "What is the capital of France?"));
    await act(() => press(box, "Enter"));
    expect(box.value).toBe("What is the capital of France?");
    const sent = model.last("send");
    expect(sent.body).toEqual({ text: "What is the capital of France?" });
    await act(() => model.ack(sent));
    expect(box.value).toBe("");
  });

  test("stays in the box with the reason when the kernel refuses it", async () => {
    const { model, by, act, el } = await show(Chat, snapshot());
    const box = by("textbox", "Message") as HTMLTextAreaElement;
    await act(() => type(box, "Hi"));
    await act(() => by("button", "Send").click());
    const problem = { code: "busy", message: "The model is busy.", hint: "Press Stop first." };
    await act(() => model.refuse(model.last("send"), problem));
    expect(box.value).toBe("Hi");
    expect(by("alert").textContent).toContain("The model is busy.Press Stop first.");
    await act(() => by("button", "Dismiss").click());
    expect(all(el, "alert")).toEqual([]);
  });

  test("that was changed meanwhile is not thrown away", async () => {
    const { model, by, act } = await show(Chat, snapshot());
    const box = by("textbox", "Message") as HTMLTextAreaElement;
    await act(() => type(box, "Hi"));
    await act(() => by("button", "Send").click());
    await act(() => type(box, "Hi again"));
    await act(() => model.ack(model.last("send")));
    expect(box.value).toBe("Hi again");
  });

  test("takes a new line with Shift and waits for an input method", async () => {
    const { model, by, act } = await show(Chat, snapshot());
    const box = by("textbox", "Message");
    await act(() => type(box, "Hi"));
    await act(() => press(box, "Enter", { shiftKey: true }));
    await act(() => press(box, "Enter", { isComposing: true }));
    expect(model.commands("send")).toEqual([]);
  });

  test("can be written but not sent before a model is loaded", async () => {
    const hint = "Load a model to talk to it.";
    const { model, by, act, text } = await show(
      Chat,
      snapshot({ chat: { ...chat, can_send: false, hint } }),
    );
    const box = by("textbox", "Message") as HTMLTextAreaElement;
    await act(() => type(box, "Hi"));
    await act(() => press(box, "Enter"));
    expect(text()).toContain(hint);
    expect(box.value).toBe("Hi");
    expect(model.commands("send")).toEqual([]);
  });
});

describe("the conversation", () => {
  test("names its articles by speaker and draws the model's Markdown", async () => {
    const { by } = await show(Chat, snapshot({ chat: talk }));
    expect(by("log", "Conversation")).toBeTruthy();
    expect(by("article", "you").textContent).toContain("Hi");
    expect(by("article", "model").querySelector("strong")?.textContent).toBe("Hello");
  });

  test("shows what a person wrote as it is", async () => {
    const turns = [turn("1", "you", "<b>a</b> *b*")];
    const { by } = await show(Chat, snapshot({ chat: { ...chat, turns } }));
    expect(by("article", "you").textContent).toContain("<b>a</b> *b*");
  });

  test("offers Stop before the first token", async () => {
    const turns = [turn("1", "you", "Hi"), turn("2", "model", "", { state: "waiting" })];
    const { model, by, act, el } = await show(
      Chat,
      snapshot({ chat: { ...chat, turns, busy: true } }),
    );
    expect(by("article", "model").textContent).toContain("reading the prompt");
    expect(all(el, "button", "Send")).toEqual([]);
    expect(all(el, "button", "Retry")).toEqual([]);
    await act(() => by("button", "Stop").click());
    expect(model.commands("stop")).toHaveLength(1);
  });

  test("says what an answer waits for", async () => {
    const note = "2 answers before this one";
    const turns = [turn("1", "you", "Hi"), turn("2", "model", "", { state: "waiting", note })];
    const { by } = await show(Chat, snapshot({ chat: { ...chat, turns, busy: true } }));
    expect(by("article", "model").textContent).toBe(`model${note}…`);
  });

  test("goes on after its model has left memory, with one click", async () => {
    const gone = "smollm2-135m left memory to make room for b.";
    const { model, by, act } = await show(
      Chat,
      snapshot({ chat: { ...talk, can_send: false, gone, can_reload: true } }),
    );
    expect(by("article", "model").textContent).toContain("Hello");
    expect(by("button", "Load again").closest("[role=status]")?.textContent).toContain(gone);
    await act(() => by("button", "Load again").click());
    expect(model.commands("reload")).toHaveLength(1);
  });

  test("waits with that while a load runs", async () => {
    const { model, by, act } = await show(
      Chat,
      snapshot({ chat: { ...talk, gone: "It was unloaded.", can_reload: false } }),
    );
    expect(by("button", "Load again").getAttribute("aria-disabled")).toBe("true");
    await act(() => by("button", "Load again").click());
    expect(model.commands("reload")).toEqual([]);
  });

  test("grows with the text that streams in", async () => {
    const turns = [turn("1", "you", "Hi"), turn("2", "model", "", { state: "waiting" })];
    const { model, by, act } = await show(Chat, snapshot({ chat: { ...chat, turns, busy: true } }));
    await act(() => model.event("chat.delta", 1, { turn: "2", text: "Hello " }));
    await act(() => model.event("chat.delta", 2, { turn: "2", text: "there" }));
    await act(() =>
      model.event("chat", 3, {
        ...talk,
        turns: [turn("1", "you", "Hi"), turn("2", "model", "Hello there")],
      }),
    );
    expect(by("article", "model").textContent).toContain("Hello there");
  });

  test("answers the last question again", async () => {
    const { model, by, act } = await show(Chat, snapshot({ chat: talk }));
    await act(() => by("button", "Retry").click());
    expect(model.last("retry").body).toEqual({ turn: "2" });
  });

  test("keeps an edited question until the kernel has taken it", async () => {
    const { model, by, act, el } = await show(Chat, snapshot({ chat: talk }));
    await act(() => by("button", "Edit").click());
    await act(() => type(by("textbox", "Question"), "Hi there"));
    await act(() => by("button", "Save").click());
    expect(by("textbox", "Question")).toHaveProperty("value", "Hi there");
    expect(model.last("edit-turn").body).toEqual({ turn: "1", text: "Hi there" });
    await act(() => model.ack(model.last("edit-turn")));
    expect(all(el, "textbox", "Question")).toEqual([]);
  });

  test("can be left for a new one", async () => {
    const { model, by, act } = await show(Chat, snapshot({ chat: talk }));
    await act(() => by("button", "New chat").click());
    expect(model.commands("clear")).toHaveLength(1);
  });

  test("says how a turn ended", async () => {
    const turns = [turn("1", "model", "Par", { state: "stopped", note: "1 token" })];
    const { by } = await show(Chat, snapshot({ chat: { ...chat, turns } }));
    expect(by("article", "model").textContent).toContain("stopped · 1 token");
  });

  test("shows how much of the context it has used", async () => {
    const { by } = await show(
      Chat,
      snapshot({ chat: { ...talk, context_tokens: 18204, context_limit: 32768 } }),
    );
    expect(by("meter", "Context used").getAttribute("aria-valuetext")).toBe(
      "18,204 of 32,768 tokens",
    );
  });
});
