import { File as WholeFile } from "node:buffer";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { AttachmentView, ChatView, SamplingField } from "../protocol";
import { all } from "../testing/roles";
import { press, show, type } from "../testing/show";
import { snapshot, turn } from "../testing/views";
import { Chat } from "./chat";

const chat = snapshot().chat;
const talk = { ...chat, turns: [turn("1", "you", "Hi"), turn("2", "model", "Hello")] };
const draw = (more: Partial<ChatView> = {}) => show(Chat, snapshot({ chat: { ...talk, ...more } }));

afterEach(() => vi.useRealTimers());

function file(name: string, more: Partial<AttachmentView> = {}): AttachmentView {
  return { id: name, name, kind: "text", size: "3 B", thumbnail: "", reading: false, ...more };
}

function setting(name: string, label: string, more: Partial<SamplingField> = {}): SamplingField {
  const rest = { value: "", automatic: "off", help: "What it does.", unused: "", error: "" };
  return { name, label, kind: "number", ...rest, ...more };
}

describe("versions", () => {
  const versions = ["2", "5", "7"];

  test("are counted, with a way to the ones beside", async () => {
    const turns = [turn("1", "you", "Hi"), turn("5", "model", "Hello", { versions })];
    const { model, by, act } = await draw({ turns });
    expect(by("article", "model").textContent).toContain("2 / 3");
    await act(() => by("button", "Previous version").click());
    await act(() => by("button", "Next version").click());
    expect(model.commands("show").map(({ body }) => body)).toEqual([{ turn: "2" }, { turn: "7" }]);
  });

  test("end where there are no more, and keep the focus on the way", async () => {
    const at = (id: string) => ({
      ...talk,
      turns: [turn("1", "you", "Hi"), turn(id, "model", id, { versions })],
    });
    const { model, by, act } = await draw(at("5"));
    await act(() => {
      by("button", "Next version").focus();
      by("button", "Next version").click();
    });
    await act(() => model.event("chat", 1, at("7")));
    expect(document.activeElement).toBe(by("button", "Next version"));
    expect(by("button", "Next version").getAttribute("aria-disabled")).toBe("true");
    await act(() => by("button", "Next version").click());
    expect(model.commands("show")).toHaveLength(1);
  });

  test("stay as they are while an answer runs", async () => {
    const turns = [turn("1", "you", "Hi", { versions: ["1", "3"] }), turn("2", "model", "")];
    const { model, by, act } = await draw({ turns, busy: true });
    await act(() => by("button", "Next version").click());
    expect(model.commands("show")).toEqual([]);
  });

  test("begin at any answer, not only at the last", async () => {
    const turns = [...talk.turns, turn("3", "you", "And?"), turn("4", "model", "So.")];
    const { model, el, act } = await draw({ turns });
    await act(() => all(el, "button", "Retry")[0]?.click());
    expect(model.last("retry").body).toEqual({ turn: "2" });
  });
});

describe("what is folded", () => {
  test("opens one at a time, beneath its button", async () => {
    const { by, el, act } = await draw();
    expect(by("button", "Instructions").getAttribute("aria-expanded")).toBe("false");
    await act(() => by("button", "Instructions").click());
    expect(by("textbox", "Instructions")).toBeTruthy();
    await act(() => by("button", "Export").click());
    expect(all(el, "textbox", "Instructions")).toEqual([]);
    expect(by("button", "Copy as Python")).toBeTruthy();
    await act(() => by("button", "Export").click());
    expect(all(el, "button", "Copy as Python")).toEqual([]);
  });

  test("says on its button what is set in it", async () => {
    const { el, by } = await draw({
      instructions: { text: "Be short.", note: "" },
      sampling: { fields: [], presets: [], summary: "Creative" },
    });
    const described = (name: string) =>
      el.querySelector(`[id="${by("button", name).getAttribute("aria-describedby")}"]`)
        ?.textContent;
    expect(described("Instructions")).toBe("set");
    expect(described("Settings")).toBe("Creative");
  });
});

describe("instructions", () => {
  test("are sent when the person leaves, and stay as typed until then", async () => {
    const { model, by, act } = await draw();
    await act(() => by("button", "Instructions").click());
    const box = by("textbox", "Instructions") as HTMLTextAreaElement;
    await act(() => type(box, "Be short. "));
    await act(() => box.blur());
    expect(model.last("instruct").body).toEqual({ text: "Be short. " });
    const instructions = { text: "Be short.", note: "They are put before the first question." };
    await act(() => model.event("chat", 1, { ...talk, instructions }));
    expect(box.value).toBe("Be short.");
    expect(box.parentElement?.textContent).toContain(instructions.note);
  });

  test("are sent in a pause too", async () => {
    vi.useFakeTimers();
    const { model, by, act } = await draw();
    await act(() => by("button", "Instructions").click());
    await act(() => type(by("textbox", "Instructions"), "Be short."));
    expect(model.commands("instruct")).toEqual([]);
    await act(() => {
      vi.advanceTimersByTime(1_000);
    });
    expect(model.commands("instruct")).toHaveLength(1);
  });
});

describe("settings", () => {
  const fields = [
    setting("temperature", "Temperature", { value: "0.7" }),
    setting("top_k", "Top k", { kind: "count", value: "-3", error: "Type a whole number." }),
    setting("seed", "Seed", { kind: "count", unused: "Changes nothing at temperature 0." }),
    setting("stop", "Stop strings", { kind: "texts", value: "END\nUser:" }),
  ];
  const presets = [
    { id: "exact", title: "Exact", help: "Always the likeliest.", active: true },
    { id: "creative", title: "Creative", help: "Temperature 1.1.", active: false },
  ];
  const open = async () => {
    const shown = await draw({ sampling: { fields, presets, summary: "Exact" } });
    await shown.act(() => shown.by("button", "Settings").click());
    return shown;
  };

  test("show what applies, what does not and what is wrong", async () => {
    const { by, el } = await open();
    const value = (label: string) => (by("textbox", label) as HTMLInputElement).value;
    expect([value("Temperature"), value("Seed"), value("Stop strings")]).toEqual([
      "0.7",
      "",
      "END\nUser:",
    ]);
    const about = (label: string) =>
      (by("textbox", label).getAttribute("aria-describedby") ?? "")
        .split(" ")
        .map((id) => el.querySelector(`[id="${id}"]`)?.textContent)
        .join(" ");
    expect(by("textbox", "Top k").getAttribute("aria-invalid")).toBe("true");
    expect(about("Top k")).toContain("Type a whole number.");
    expect(about("Seed")).toContain("Changes nothing at temperature 0.");
    expect(by("button", "Exact").getAttribute("aria-pressed")).toBe("true");
  });

  test("go to the kernel field by field", async () => {
    const { model, by, act } = await open();
    await act(() => type(by("textbox", "Temperature"), "0.9"));
    await act(() => by("textbox", "Temperature").blur());
    expect(model.last("sample").body).toEqual({ field: "temperature", value: "0.9" });
    await act(() => by("button", "Creative").click());
    expect(model.last("sampling-preset").body).toEqual({ preset: "creative" });
  });
});

describe("export", () => {
  test("copies what the kernel writes", async () => {
    const written: string[] = [];
    vi.stubGlobal("navigator", {
      ...navigator,
      clipboard: { writeText: async (text: string) => void written.push(text) },
    });
    const { model, by, act, text } = await draw();
    await act(() => by("button", "Export").click());
    await act(() => by("button", "Copy as Python").click());
    expect(model.last("export").body).toEqual({ form: "python" });
    await act(() => model.ack(model.last("export"), "messages = []\n"));
    await act(() => {});
    vi.unstubAllGlobals();
    expect(written).toEqual(["messages = []\n"]);
    expect(text()).toContain("Copied");
  });
});

describe("an answer", () => {
  test("is copied as it was said, without what was thought", async () => {
    const written: string[] = [];
    vi.stubGlobal("navigator", {
      ...navigator,
      clipboard: { writeText: async (text: string) => void written.push(text) },
    });
    const turns = [turn("2", "model", "<think>Well.</think>\n\n**Paris**.")];
    const { el, act } = await draw({ turns });
    await act(() => all(el, "button", "Copy").at(-1)?.click());
    await act(() => {});
    vi.unstubAllGlobals();
    expect(written).toEqual(["**Paris**."]);
  });
});

// jsdom's own files cannot be read.
const File = WholeFile as unknown as typeof globalThis.File;

describe("files", () => {
  /** What a browser gives for files that were dropped or pasted. */
  function given(files: File[]) {
    return { types: ["Files"], files } as unknown as DataTransfer;
  }

  function happen(target: HTMLElement, name: string, files: File[]): Event {
    const event = new Event(name, { bubbles: true, cancelable: true });
    const key = name === "paste" ? "clipboardData" : "dataTransfer";
    Object.defineProperty(event, key, { value: given(files) });
    target.dispatchEvent(event);
    return event;
  }

  test.each([
    ["drop", "region", "Chat"],
    ["paste", "textbox", "Message"],
  ] as const)("that are there by %s go to the kernel as bytes", async (name, role, label) => {
    const { model, by, act } = await draw();
    let event = new Event("");
    await act(() => {
      event = happen(by(role, label), name, [new File(["abc"], "notes.txt")]);
    });
    await vi.waitFor(() => model.last("attach"));
    expect(event.defaultPrevented).toBe(true);
    const sent = model.last("attach");
    expect(sent.body).toMatchObject({ name: "notes.txt", last: true });
    const [bytes] = model.buffers[model.sent.indexOf(sent)] ?? [];
    expect(new TextDecoder().decode(bytes)).toBe("abc");
  });

  test("that are large go in pieces, each when the one before was taken", async () => {
    const { model, by, act } = await draw();
    const large = new File(["x".repeat(5 * 2 ** 20)], "large.txt");
    await act(() => void happen(by("region", "Chat"), "drop", [large]));
    for (const count of [1, 2, 3]) {
      await vi.waitFor(() => expect(model.commands("attach")).toHaveLength(count));
      await act(() => model.ack(model.last("attach")));
    }
    const pieces = model.commands("attach").map(({ body }) => body as { last: boolean });
    expect(pieces.map(({ last }) => last)).toEqual([false, false, true]);
    expect(new Set(pieces.map((piece) => (piece as { upload?: string }).upload)).size).toBe(1);
    const sizes = model.buffers.flat().map((buffer) => buffer.byteLength);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(5 * 2 ** 20);
  });

  test("that are refused say why, and nothing more of them is sent", async () => {
    const { model, by, act } = await draw();
    const files = [new File(["a"], "a.bin"), new File(["b"], "b.txt")];
    await act(() => void happen(by("region", "Chat"), "drop", files));
    await vi.waitFor(() => model.last("attach"));
    const problem = { code: "bad-config", message: "a.bin: is no text.", hint: "Save it anew." };
    await act(() => model.refuse(model.last("attach"), problem));
    expect(by("alert").textContent).toContain("a.bin: is no text.");
    expect(model.commands("attach")).toHaveLength(1);
  });

  test("that the browser cannot read say so", async () => {
    const { by, act } = await draw();
    const folder = {
      name: "folder",
      size: 4096,
      slice: () => ({ arrayBuffer: () => Promise.reject(new Error("unreadable")) }),
    };
    await act(() => void happen(by("region", "Chat"), "drop", [folder as unknown as File]));
    await vi.waitFor(() => expect(by("alert").textContent).toContain("could not read folder."));
    await act(() => by("button", "Dismiss").click());
  });

  test("that wait can be put away, and one that is read holds the question back", async () => {
    const items = [file("notes.txt"), file("photo.png", { kind: "image", reading: true })];
    const { model, by, act, text } = await draw({ tray: { items, problem: "", help: "Text." } });
    const box = by("textbox", "Message");
    await act(() => type(box, "What is it?"));
    await act(() => press(box, "Enter"));
    expect(model.commands("send")).toEqual([]);
    expect(text()).toContain("reading…");
    await act(() => by("button", "Remove photo.png").click());
    expect(model.last("detach").body).toEqual({ attachment: "photo.png" });
    await act(() =>
      model.event("chat", 1, { ...talk, tray: { items: [], problem: "", help: "Text." } }),
    );
    await act(() => press(box, "Enter"));
    expect(model.commands("send")).toHaveLength(1);
  });

  test("of a question are shown by name and size, and never more than that", async () => {
    const name = "<img src=x onerror=alert(1)>.txt";
    const attachments = [file(name), file("p.png", { thumbnail: "https://example.org/p.png" })];
    const { el, by } = await draw({ turns: [turn("1", "you", "Hi", { attachments })] });
    expect(by("article", "you").textContent).toContain(`${name}3 B`);
    expect(el.querySelector("img")).toBeNull();
  });

  test("that cannot be taken are named by the button that takes files", async () => {
    const help = "Text files up to 1 MB. No images: tiny takes text only.";
    const { el, by } = await draw({ tray: { items: [], problem: "", help } });
    const id = by("button", "Attach").getAttribute("aria-describedby");
    expect(el.querySelector(`[id="${id}"]`)?.textContent).toBe(help);
  });
});

describe("the context", () => {
  const used = (tokens: number) => ({ context_tokens: tokens, context_limit: 1000 });

  test.each([
    [200, "800 left", ""],
    [850, "150 left", "Nearly full"],
    [1000, "0 left", "Start a new chat, or edit an earlier question."],
  ])("of which %i of 1,000 tokens are used", async (tokens, left, warning) => {
    const { by } = await draw(used(tokens));
    const meter = by("meter", "Context used").parentElement as HTMLElement;
    expect(meter.textContent).toContain(left);
    const status = meter.querySelector("[role=status]")?.textContent ?? "";
    expect(warning ? status.includes(warning) : status === "").toBe(true);
  });
});
