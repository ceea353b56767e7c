import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { keepFocusInside } from "./focus";

let root: HTMLElement;
let closing: AbortController;

/** Draw `html` inside the root; observers have been told when this resolves. */
async function draw(html: string): Promise<void> {
  root.innerHTML = html;
  await Promise.resolve();
}

const named = (id: string) => document.getElementById(id) as HTMLElement;
const focused = () => document.activeElement?.id;

beforeEach(() => {
  closing = new AbortController();
  root = document.body.appendChild(document.createElement("div"));
  keepFocusInside(root, closing.signal);
});

afterEach(() => {
  closing.abort();
  document.body.replaceChildren();
});

const CHAT = `
  <section id="chat">
    <div id="log" tabindex="0"><article><button id="edit">Edit</button></article></div>
    <div><textarea id="message"></textarea><button id="stop">Stop</button></div>
    <div><button id="clear">New chat</button><button id="copy">Copy</button></div>
  </section>`;

describe("the focus of what goes", () => {
  test("passes to the text field beside it", async () => {
    await draw(CHAT);
    named("stop").focus();
    named("stop").remove();
    await Promise.resolve();
    expect(focused()).toBe("message");
  });

  test("passes to the nearest thing around it that takes the focus", async () => {
    await draw(CHAT);
    named("edit").focus();
    named("edit").closest("article")?.remove();
    await Promise.resolve();
    expect(focused()).toBe("log");
  });

  test("passes to the region, and not to another button", async () => {
    await draw(CHAT);
    named("clear").focus();
    named("clear").toggleAttribute("disabled");
    await Promise.resolve();
    expect(focused()).toBe("chat");
    expect(named("chat").getAttribute("tabindex")).toBe("-1");
  });

  test("stays with whoever has taken it meanwhile", async () => {
    await draw(CHAT);
    named("edit").focus();
    named("edit").remove();
    named("message").focus();
    await Promise.resolve();
    expect(focused()).toBe("message");
  });

  test("is not taken from the notebook once a person has gone there", async () => {
    const cell = document.body.appendChild(document.createElement("button"));
    cell.id = "cell";
    await draw(CHAT);
    named("stop").focus();
    cell.focus();
    named("stop").remove();
    await Promise.resolve();
    expect(focused()).toBe("cell");
    cell.blur();
    named("edit").remove();
    await Promise.resolve();
    expect(document.activeElement).toBe(document.body);
  });

  test("is no longer minded once the view is gone", async () => {
    await draw(CHAT);
    named("stop").focus();
    closing.abort();
    named("stop").remove();
    await Promise.resolve();
    expect(document.activeElement).toBe(document.body);
  });
});
