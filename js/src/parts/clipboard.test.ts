import { afterEach, expect, test, vi } from "vitest";
import { copyText } from "./clipboard";

afterEach(() => {
  vi.unstubAllGlobals();
  Reflect.deleteProperty(document, "execCommand");
});

test("falls back to a selection where the clipboard is closed", async () => {
  vi.stubGlobal("navigator", {});
  let copied = "";
  document.execCommand = () => {
    copied = document.querySelector("textarea")?.value ?? "";
    return true;
  };
  expect(await copyText("Config()")).toBe(true);
  expect(copied).toBe("Config()");
  expect(document.querySelector("textarea")).toBeNull();
});

test("says so when nothing works", async () => {
  vi.stubGlobal("navigator", {});
  expect(await copyText("Config()")).toBe(false);
});
