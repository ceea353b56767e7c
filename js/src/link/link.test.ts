import { beforeEach, describe, expect, test, vi } from "vitest";
import { Store } from "../state/store";
import { FakeModel } from "../testing/model";
import { snapshot } from "../testing/views";
import { Link, REPLY_TIMEOUT_MS } from "./link";

function connect(given: unknown = snapshot({ seq: 3 })) {
  const model = new FakeModel(given);
  const store = new Store();
  const link = new Link(model, store);
  const lifetime = new AbortController();
  link.open(lifetime.signal);
  return { model, store, link, lifetime };
}

beforeEach(() => {
  vi.useFakeTimers();
  return () => vi.useRealTimers();
});

describe("opening", () => {
  test("draws the trait and says hello", () => {
    const { model, store } = connect(snapshot({ seq: 3, title: "from the trait" }));
    expect(store.title.value).toBe("from the trait");
    expect(model.last("hello")).toMatchObject({ v: 1, name: "hello", body: {} });
  });

  test("waits for the kernel where the trait is empty", () => {
    const { model, store } = connect({});
    model.event("snapshot", 9, snapshot({ seq: 9, title: "from the kernel" }));
    expect(store.title.value).toBe("from the kernel");
  });

  test("stops listening at the end of its lifetime", () => {
    const { model, lifetime } = connect();
    lifetime.abort();
    expect(model.listening).toBe(0);
  });
});

describe("events", () => {
  test("in order replace their part", () => {
    const { model, store } = connect();
    model.event("header", 4, { title: "four" });
    model.event("header", 5, { title: "five" });
    expect(store.title.value).toBe("five");
    expect(store.seq).toBe(5);
  });

  test("that are drawn already are ignored", () => {
    const { model, store } = connect();
    model.event("header", 3, { title: "old" });
    expect(store.title.value).toBe("ollm");
  });

  test("after a gap wait for a snapshot, asked for once", () => {
    const { model, store } = connect();
    model.event("header", 5, { title: "five" });
    model.event("header", 6, { title: "six" });
    expect(store.title.value).toBe("ollm");
    expect(model.commands("resync")).toHaveLength(1);

    model.event("snapshot", 6, snapshot({ seq: 6, title: "all of six" }));
    expect(store.title.value).toBe("all of six");
    model.event("header", 7, { title: "seven" });
    expect(store.title.value).toBe("seven");
    expect(model.commands("resync")).toHaveLength(1);
  });

  test("a trait that is new enough also ends a gap", () => {
    const { model, store } = connect();
    model.event("header", 5, { title: "five" });
    model.syncTrait(snapshot({ seq: 5, title: "trait of five" }));
    model.event("header", 6, { title: "six" });
    expect(store.title.value).toBe("six");
  });

  test("a resync without an answer is asked again", () => {
    const { model } = connect();
    model.event("header", 5, { title: "five" });
    vi.advanceTimersByTime(REPLY_TIMEOUT_MS);
    model.event("header", 6, { title: "six" });
    expect(model.commands("resync")).toHaveLength(2);
  });

  test("an older trait does not undo what is drawn", () => {
    const { model, store } = connect();
    model.event("header", 4, { title: "four" });
    model.syncTrait(snapshot({ seq: 3, title: "three" }));
    expect(store.title.value).toBe("four");
  });

  test("malformed ones are reported and change nothing", () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    const { model, store } = connect();
    model.receive({ v: 1, kind: "header", seq: 4, body: { title: 4 } });
    model.receive(undefined);
    model.syncTrait({ v: 1, seq: 5 } as never);
    expect(warn).toHaveBeenCalledTimes(3);
    expect(store.title.value).toBe("ollm");
  });

  test("of another version are noticed", () => {
    const { model, link } = connect();
    model.receive({ v: 2, kind: "header", seq: 4, body: { title: "x" } });
    expect(link.otherVersion.value).toBe(true);
  });
});

describe("commands", () => {
  test("settle with the kernel's ack", async () => {
    const { model, link } = connect();
    const asked = link.ask("search", { text: "smol" });
    model.ack(model.last("search"));
    expect(await asked).toEqual({ ok: true, job: null, text: "" });
  });

  test("settle with the kernel's error", async () => {
    const { model, link } = connect();
    const problem = { code: "bad", message: "No such model.", hint: "Pick one of the list." };
    const asked = link.ask("choose", { reference: "x" });
    model.refuse(model.last("choose"), problem);
    expect(await asked).toEqual({ ok: false, problem });
  });

  test("ignore the replies to other pages", async () => {
    const { model, link } = connect();
    const settled = vi.fn();
    void link.ask("cancel", {}).then(settled);
    model.receive({ v: 1, kind: "ack", id: "another-page-1" });
    await vi.advanceTimersByTimeAsync(0);
    expect(settled).not.toHaveBeenCalled();
  });

  test("without a reply in time say so, until anything is heard", () => {
    const { model, link } = connect();
    model.ack(model.last("hello"));
    void link.ask("cancel", {});
    vi.advanceTimersByTime(REPLY_TIMEOUT_MS - 1);
    expect(link.silent.value).toBe(false);
    vi.advanceTimersByTime(1);
    expect(link.silent.value).toBe(true);
    model.event("header", 4, { title: "alive" });
    expect(link.silent.value).toBe(false);
  });

  test("without a reply in time say so, although other things are heard, until it comes", () => {
    const { model, link } = connect();
    model.ack(model.last("hello"));
    void link.ask("stop", {});
    vi.advanceTimersByTime(REPLY_TIMEOUT_MS);
    model.event("header", 4, { title: "alive" });
    expect(link.behind.value).toBe(true);
    model.ack(model.last("stop"));
    expect(link.behind.value).toBe(false);
  });

  test("take a reply that comes late", async () => {
    const { model, link } = connect();
    const asked = link.ask("cancel", {});
    vi.advanceTimersByTime(REPLY_TIMEOUT_MS * 10);
    model.ack(model.last("cancel"));
    expect((await asked).ok).toBe(true);
  });

  test("that cannot leave the page fail with a hint", async () => {
    const { model, link } = connect();
    vi.spyOn(model, "send").mockImplementation(() => {
      throw new Error("closed");
    });
    expect(await link.ask("cancel", {})).toMatchObject({
      ok: false,
      problem: {
        code: "not-sent",
        message: expect.stringContaining("restarted"),
        hint: "Run this cell again.",
      },
    });
  });
});
