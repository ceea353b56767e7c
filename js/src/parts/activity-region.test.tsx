import { beforeEach, describe, expect, test, vi } from "vitest";
import { kv, pace, trace } from "../testing/activity";
import { all } from "../testing/roles";
import { press, show } from "../testing/show";
import { activityView, snapshot } from "../testing/views";
import { Activity } from "./activity-region";

const showing = (more: Parameters<typeof activityView>[0] = {}) =>
  show(Activity, snapshot({ activity: activityView(more) }));
const valueText = (element: HTMLElement) => element.getAttribute("aria-valuetext");

beforeEach(() => {
  vi.useFakeTimers();
  return () => vi.useRealTimers();
});

describe("activity", () => {
  test("is one line before anything has run", async () => {
    const { el, text } = await showing({ untraceable: "No model is loaded yet." });
    expect(text()).toBe("ActivityPictures of speed and memory, once a model is loaded.");
    expect(el.querySelector("figure")).toBeNull();
  });

  test("says what is missing while a model is loaded and nothing was asked", async () => {
    const loading = { name: "Loading", predicted: "1 s", measured: "2 s", ratio: 2, remark: "" };
    const { text, by } = await showing({ truth: [loading] });
    expect(text()).toContain("Ask something: how fast the answer comes is drawn here.");
    expect(by("button", "Trace the next answer")).toBeTruthy();
  });

  test("says each picture in a sentence, and shows it as a table", async () => {
    const view = { pace: pace(), kv: kv(), trace: trace() };
    const { el, act } = await showing(view);
    const images = all(el, "img").map((image) => image.getAttribute("aria-label"));
    expect(images).toEqual([view.pace.text, view.trace.text, view.kv.text]);
    for (const button of all(el, "button", "Show as table")) await act(() => button.click());
    const tables = [...el.querySelectorAll("table")].map((table) =>
      [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent).join(" | ")),
    );
    expect(tables[0]).toContain("5 | 20.0 | 600 ms");
    expect(tables[1]).toContain("3 | 40.0 | 20.0 | 3.0 | 0.0 | 15.0 | 1.0 | 1.0");
    expect(tables[2]).toContain("2 | 160 | 40 | 1 MiB | 2 MiB | 1 MiB");
  });
});

describe("the speed of an answer", () => {
  test("says that a prompt is being read", async () => {
    const reading = pace({ state: "reading", tokens: [], at_s: [], text: "The prompt is read." });
    const { text } = await showing({ pace: reading });
    expect(text()).toContain("Reading the prompt");
  });

  test("says how much of the prompt was read and reused", async () => {
    const { text } = await showing({ pace: pace() });
    expect(text()).toContain("400 ms25 tokens12 reused");
    expect(text()).toContain("20.0 tokens/s on average");
  });

  test("is walked through with arrow keys", async () => {
    const { by, act } = await showing({ pace: pace() });
    const cursor = by("slider", "Tokens of the answer");
    expect(valueText(cursor)).toBe("Token 5: 20.0 tokens/s, 50 ms each");
    await act(() => press(cursor, "ArrowLeft"));
    expect(valueText(cursor)).toBe("Token 4: 20.0 tokens/s, 50 ms each");
    await act(() => press(cursor, "Home"));
    await act(() => press(cursor, "ArrowLeft"));
    expect(valueText(cursor)).toBe("Token 2: 20.0 tokens/s, 50 ms each");
  });

  test("grows while the answer is written, its end marked", async () => {
    const { model, by, act } = await showing({
      pace: pace({ state: "writing", tokens: [1, 2], at_s: [0.4, 0.45], seconds: 0.45 }),
    });
    expect(by("slider", "Tokens of the answer").getAttribute("aria-valuemax")).toBe("1");
    await act(() => model.event("activity", 1, activityView({ pace: pace() })));
    expect(valueText(by("slider", "Tokens of the answer"))).toContain("Token 5");
  });
});

describe("the KV cache", () => {
  test("says where it is after the last answer, and of how much", async () => {
    const { text } = await showing({ kv: kv() });
    expect(text()).toContain("4 MiB, 160 of 4,096 tokens");
    expect(text()).toContain("hot 1 MiBin RAM 2 MiBon disk 1 MiB");
  });

  test("shows a limit that is near, and not one that would flatten everything", async () => {
    const far = await showing({ kv: kv() });
    expect(far.el.querySelector(".ollm-plot-limit")).toBeNull();
    const near = await showing({ kv: kv({ limit_bytes: 8 * 2 ** 20 }) });
    expect(near.el.querySelector(".ollm-plot-limit")?.textContent).toBe("plan 8 MiB");
  });

  test("is walked through answer by answer", async () => {
    const { by, act } = await showing({ kv: kv() });
    const cursor = by("slider", "Answers of the conversation");
    expect(valueText(cursor)).toBe(kv().items[1]?.text);
    await act(() => press(cursor, "ArrowLeft"));
    expect(valueText(cursor)).toBe(kv().items[0]?.text);
  });
});

describe("a trace", () => {
  test("is asked for, and taken back", async () => {
    const { model, by, act } = await showing({ pace: pace() });
    const button = by("button", "Trace the next answer");
    expect(button.getAttribute("aria-pressed")).toBe("false");
    await act(() => button.click());
    expect(model.last("trace").body).toEqual({ on: true });
    const tracing = activityView({ pace: pace(), tracing: "on" });
    await act(() => model.event("activity", 1, tracing));
    expect(button.getAttribute("aria-pressed")).toBe("true");
    expect(by("status", "Trace").textContent).toContain("recorded layer by layer");
    await act(() => button.click());
    expect(model.last("trace").body).toEqual({ on: false });
  });

  test("cannot be had of every backend, and it is said why", async () => {
    const untraceable = "transformers-generic does not see the layers of its model.";
    const { model, by, act, text } = await showing({ pace: pace(), untraceable });
    const button = by("button", "Trace the next answer");
    expect(button.getAttribute("aria-disabled")).toBe("true");
    expect(text()).toContain(untraceable);
    await act(() => button.click());
    expect(model.commands("trace")).toEqual([]);
  });

  test("says of each token what its time went to, the longest first", async () => {
    const { by } = await showing({ trace: trace() });
    expect(valueText(by("slider", "Tokens that were traced"))).toBe(
      "Token 3: 40 ms: waiting for disk 20 ms (50%), computing 15 ms (38%), " +
        "waiting for copies 3.0 ms (8%), choosing the token 1.0 ms (3%), between layers 1.0 ms (3%)",
    );
  });

  test("asks for the layers of the token that was chosen", async () => {
    const { model, by, act, text } = await showing({ trace: trace() });
    expect(text()).toContain("Token 3, 40 ms");
    const cursor = by("slider", "Tokens that were traced");
    await act(() => press(cursor, "ArrowLeft"));
    expect(valueText(cursor)).toContain("Token 2: 50 ms");
    expect(model.last("inspect").body).toEqual({ token: "2" });
    await act(() => model.event("activity", 1, activityView({ trace: trace({ shown: 2 }) })));
    expect(text()).toContain("Token 2, 50 ms");
  });

  test("tells layers apart, and leaves out what took no time", async () => {
    const { el, by, act } = await showing({ trace: trace() });
    const lanes = [...el.querySelectorAll(".ollm-lane-name")].map((lane) => lane.textContent);
    expect(lanes).not.toContain("Unpacking");
    expect(lanes).toContain("Waiting for disk");
    const cursor = by("slider", "Layers of the token");
    expect(valueText(cursor)).toContain("Layer 1 of 2: waiting for disk 5.0 ms");
    await act(() => press(cursor, "ArrowRight"));
    expect(valueText(cursor)).toContain("Layer 2 of 2: waiting for disk 15 ms");
  });
});

describe("predicted and measured", () => {
  const item = (name: string, ratio: number) => ({
    name,
    predicted: "1 s",
    measured: `${ratio} s`,
    ratio,
    remark: "",
  });

  test("puts what came true where it is on the scale, in both directions alike", async () => {
    const truth = [item("One token", 1), item("First token", 2), item("Loading", 0.5)];
    const { el } = await showing({ truth, truth_text: "1 of 3 figures." });
    const dots = [...el.querySelectorAll<HTMLElement>(".ollm-truth-dot")];
    expect(dots.map(({ style }) => style.left)).toEqual(["50%", "100%", "0%"]);
    expect(el.querySelector("[role=img]")?.getAttribute("aria-label")).toBe(
      "1 of 3 figures. One token: predicted 1 s, measured 1 s. " +
        "First token: predicted 1 s, measured 2 s. Loading: predicted 1 s, measured 0.5 s.",
    );
  });

  test("widens its scale for what is far off", async () => {
    const { text } = await showing({ truth: [item("Loading", 7)], truth_text: "" });
    expect(text()).toContain("÷10");
  });
});
