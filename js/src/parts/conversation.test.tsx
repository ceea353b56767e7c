import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { place } from "../testing/draw";
import { all, find } from "../testing/roles";
import { snapshot, turn } from "../testing/views";
import { Conversation } from "./conversation";

const chat = snapshot().chat;
const LONG = Array.from({ length: 200 }, (_, index) =>
  turn(`${index}`, index % 2 ? "model" : "you", `**turn** ${index}`),
);
const talk = (turns = LONG) => ({ ...chat, turns });

type OnMove = (entries: { target: Element; isIntersecting: boolean }[]) => void;

/** Says what is near only when a test does, and has time only when a test gives it. */
class Sight {
  static last: Sight | undefined;
  readonly watched = new Set<Element>();
  #onMove: OnMove;
  constructor(onMove: OnMove) {
    this.#onMove = onMove;
    Sight.last = this;
  }
  observe(element: Element): void {
    this.watched.add(element);
  }
  unobserve(element: Element): void {
    this.watched.delete(element);
  }
  disconnect(): void {
    this.watched.clear();
  }
  meet(target: Element): void {
    this.#onMove([{ target, isIntersecting: true }]);
  }
}

let giveTime: (milliseconds: number) => void = () => {};

beforeEach(() => {
  vi.stubGlobal("IntersectionObserver", Sight);
  vi.stubGlobal("requestIdleCallback", (work: IdleRequestCallback) => {
    giveTime = (milliseconds) => work({ didTimeout: false, timeRemaining: () => milliseconds });
    return 1;
  });
  vi.stubGlobal("cancelIdleCallback", () => {
    giveTime = () => {};
  });
});
afterEach(() => vi.unstubAllGlobals());

const drawnTurns = (page: Element) => page.querySelectorAll(".ollm-markdown").length;

describe("a long conversation", () => {
  test("draws its end, and has the text of everything else", async () => {
    const { page, draw } = place();
    await draw(<Conversation chat={talk()} />);
    expect(all(page, "article")).toHaveLength(200);
    expect(drawnTurns(page)).toBe(4);
    expect(all(page, "article", "model")[0]?.textContent).toContain("**turn** 1");
    expect(all(page, "article", "model").at(-1)?.querySelector("strong")).not.toBeNull();
  });

  test("draws what comes near", async () => {
    const { page, draw } = place();
    await draw(<Conversation chat={talk()} />);
    const first = page.querySelectorAll(".ollm-slot")[1] as Element;
    await act(() => Sight.last?.meet(first));
    expect(first.querySelector("strong")?.textContent).toBe("turn");
    expect(drawnTurns(page)).toBe(5);
    expect(Sight.last?.watched.has(first)).toBe(false);
  });

  test("draws everything when there is time, from its end on, and is quiet about it", async () => {
    const { page, draw } = place();
    await draw(<Conversation chat={talk()} />);
    await act(() => giveTime(0));
    expect(page.querySelectorAll(".ollm-undrawn")).toHaveLength(95);
    for (let pause = 0; pause < 24; pause += 1) await act(() => giveTime(50));
    expect(drawnTurns(page)).toBe(100);
    expect(page.querySelectorAll('[aria-live="off"] article')).toHaveLength(192);
  });

  test("stops when it goes", async () => {
    const { draw } = place();
    await draw(<Conversation chat={talk()} />);
    const sight = Sight.last;
    await draw(null);
    expect(sight?.watched.size).toBe(0);
    expect(() => giveTime(50)).not.toThrow();
  });
});

describe("a change", () => {
  async function changed(page: Element, by: () => Promise<void>): Promise<Set<Element | null>> {
    const found: MutationRecord[] = [];
    const observer = new MutationObserver((records) => found.push(...records));
    const everything = { childList: true, subtree: true, characterData: true, attributes: true };
    observer.observe(page.querySelector(".ollm-log > div") as Element, everything);
    await by();
    found.push(...observer.takeRecords());
    observer.disconnect();
    const inTurn = (node: Node) =>
      (node instanceof Element ? node : node.parentElement)?.closest("article") ?? null;
    return new Set(found.map(({ target }) => inTurn(target)).filter(Boolean));
  }

  test("of one turn touches one turn", async () => {
    const { page, draw } = place();
    await draw(<Conversation chat={talk()} />);
    const grown = [...LONG.slice(0, -1), { ...turn("199", "model", "**turn** 199 grows") }];
    const touched = await changed(page, () => draw(<Conversation chat={talk(grown)} />));
    expect([...touched]).toEqual([all(page, "article", "model").at(-1)]);
  });

  test("that says the same again touches none", async () => {
    const { page, draw } = place();
    await draw(<Conversation chat={talk()} />);
    const again = structuredClone(LONG);
    const touched = await changed(page, () => draw(<Conversation chat={talk(again)} />));
    expect(touched.size).toBe(0);
  });

  test("adds new turns drawn, and takes away what is gone", async () => {
    const { page, draw } = place();
    await draw(<Conversation chat={talk(LONG.slice(0, 100))} />);
    await draw(<Conversation chat={talk(LONG.slice(0, 102))} />);
    expect(all(page, "article").at(-1)?.querySelector("strong")).not.toBeNull();
    await draw(<Conversation chat={talk([])} />);
    expect(all(page, "article")).toEqual([]);
    expect(page.textContent).toContain("Nothing has been said yet.");
  });
});

describe("the end", () => {
  /** A box of 100 px over content that grows; jsdom lays out nothing. */
  function layOut(page: Element, heightPx: () => number): HTMLElement {
    const log = find(page, "log", "Conversation");
    Object.defineProperty(log, "clientHeight", { value: 100 });
    Object.defineProperty(log, "scrollHeight", { get: heightPx });
    return log;
  }

  const scroll = (log: HTMLElement, top: number) =>
    act(() => {
      log.scrollTop = top;
      log.dispatchEvent(new Event("scroll"));
    });

  test("is followed until the reader scrolls up, and again from the button on", async () => {
    const { page, draw } = place();
    let height = 1000;
    await draw(<Conversation chat={talk(LONG.slice(0, 4))} />);
    const log = layOut(page, () => height);
    await scroll(log, 900);
    height = 1200;
    await draw(<Conversation chat={talk(LONG.slice(0, 5))} />);
    expect(log.scrollTop).toBe(1200);
    await scroll(log, 500);
    height = 1300;
    await draw(<Conversation chat={talk(LONG.slice(0, 6))} />);
    expect(log.scrollTop).toBe(500);
    const button = find(page, "button", "Jump to the end");
    await act(() => button.click());
    expect(log.scrollTop).toBe(1300);
    expect(document.activeElement).toBe(log);
    expect(all(page, "button", "Jump to the end")).toEqual([]);
  });

  test("is still followed when much came at once", async () => {
    const { page, draw } = place();
    let height = 1000;
    await draw(<Conversation chat={talk(LONG.slice(0, 4))} />);
    const log = layOut(page, () => height);
    await scroll(log, 900);
    // The event of the scroll to the old end comes after the box has grown.
    height = 2000;
    await scroll(log, 900);
    await draw(<Conversation chat={talk(LONG.slice(0, 5))} />);
    expect(log.scrollTop).toBe(2000);
    expect(all(page, "button", "Jump to the end")).toEqual([]);
  });
});
