/// <reference types="node" />
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { snapshot } from "../testing/views";
import { incoming } from "./incoming";

describe("incoming", () => {
  test("knows events and replies apart", () => {
    expect(incoming({ v: 1, kind: "header", seq: 1, body: { title: "a" } }).is).toBe("event");
    expect(incoming({ v: 1, kind: "ack", id: "x" })).toEqual({
      is: "reply",
      reply: { v: 1, kind: "ack", id: "x", job: null, text: "" },
    });
  });

  test("tells another version from a malformed message", () => {
    expect(incoming({ v: 2, kind: "whatever" }).is).toBe("other version");
  });

  test.each([
    null,
    "text",
    [],
    {},
    { v: "1" },
    { v: 1 },
    { v: 1, kind: "constructor", seq: 1, body: {} },
    { v: 1, kind: "header", seq: 1.5, body: { title: "a" } },
    { v: 1, kind: "header", seq: 2 ** 60, body: { title: "a" } },
    { v: 1, kind: "header", body: { title: "a" } },
    { v: 1, kind: "header", seq: 1, body: "a" },
    { v: 1, kind: "chat", seq: 1, body: { turns: [null] } },
    { v: 1, kind: "snapshot", seq: 1, body: { ...snapshot(), plan: 3 } },
    { v: 1, kind: "error", id: "x", body: null },
  ])("calls %j malformed", (message) => {
    expect(incoming(message).is).toBe("malformed");
  });
});

// Shared with the kernel's tests, which write them. The page's tests run in `js`.
const golden = join(process.cwd(), "..", "tests", "protocol", "golden");

describe("golden messages", () => {
  const names = readdirSync(golden).filter((name) => name.endsWith(".json"));

  test.each(names)("%s is understood", (name) => {
    const { direction, message } = JSON.parse(readFileSync(join(golden, name), "utf8"));
    if (direction === "down") {
      expect(["event", "reply"], JSON.stringify(incoming(message))).toContain(incoming(message).is);
    } else {
      expect(message).toMatchObject({ v: 1, id: expect.any(String), name: expect.any(String) });
    }
  });
});
