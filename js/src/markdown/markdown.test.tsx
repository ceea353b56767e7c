import { describe, expect, test, vi } from "vitest";
import { place } from "../testing/draw";
import { all, find } from "../testing/roles";
import { Markdown } from "./markdown";
import * as sanitizing from "./sanitize";

const PYTHON = "```python\nreturn 1\n```";

describe("a block of code", () => {
  test("is named, coloured and copied as it is", async () => {
    const { page, draw } = place();
    const written = vi.fn(async () => {});
    vi.stubGlobal("navigator", { clipboard: { writeText: written } });
    await draw(
      <Markdown text={`1. so\n\n   ${PYTHON.replaceAll("\n", "\n   ")}`} growing={false} />,
    );
    const code = page.querySelector(".ollm-code");
    expect(code?.textContent).toContain("python");
    expect(code?.querySelector(".ollm-hl-kwd")?.textContent).toBe("return");
    find(page, "button", "Copy code").click();
    await draw(<Markdown text={PYTHON} growing={false} />);
    expect(written).toHaveBeenCalledWith("return 1");
    vi.unstubAllGlobals();
  });

  test("is coloured when it is whole", async () => {
    const { page, draw } = place();
    await draw(<Markdown text={"```python\nreturn"} growing />);
    expect(page.querySelector("pre")?.textContent).toBe("return");
    await draw(<Markdown text={"```python\nreturn 1"} growing />);
    expect(page.querySelector(".ollm-hl-kwd")).toBeNull();
    await draw(<Markdown text={`${PYTHON}\n\nSo`} growing />);
    expect(page.querySelector(".ollm-hl-kwd")).not.toBeNull();
  });

  test("keeps spaces and empty lines, and marks in it are text", async () => {
    const { page, draw } = place();
    await draw(<Markdown text={"```\n  <b> $x$\n\n\tb\n```"} growing={false} />);
    expect(page.querySelector("pre")?.textContent).toBe("  <b> $x$\n\n\tb");
  });
});

describe("a growing text", () => {
  test("sanitises only its last block again and keeps the elements of the others", async () => {
    const { page, draw } = place();
    await draw(<Markdown text={"one\n\ntwo\n\nthr"} growing />);
    const [one] = page.querySelectorAll("p");
    const sanitize = vi.spyOn(sanitizing, "sanitize");
    await draw(<Markdown text={"one\n\ntwo\n\nthree"} growing />);
    expect(sanitize).toHaveBeenCalledTimes(1);
    expect(page.textContent).toContain("three");
    expect(page.querySelector("p")).toBe(one);
  });

  test("keeps the elements of its last block too, and what is selected in them", async () => {
    const { page, draw } = place();
    await draw(<Markdown text={"- **one**\n- tw"} growing />);
    const strong = page.querySelector("strong");
    await draw(<Markdown text={"- **one**\n- two\n- three"} growing />);
    expect(page.querySelector("strong")).toBe(strong);
    expect(page.querySelectorAll("li")).toHaveLength(3);
  });
});

describe("what the model thought", () => {
  const fold = (page: HTMLElement) => page.querySelector("details") as HTMLDetailsElement;

  test("is open while nothing else has come, and folded then", async () => {
    const { page, draw } = place();
    await draw(<Markdown text="<think>It is *really*" growing />);
    expect(fold(page).open).toBe(true);
    expect(page.querySelector("summary")?.textContent).toBe("Thinking… 3 words");
    expect(page.querySelector("em")?.textContent).toBe("really");
    await draw(<Markdown text={"<think>It is *really* so</think>\nPar"} growing />);
    expect(fold(page).open).toBe(false);
    expect(page.querySelector("summary")?.textContent).toBe("Thoughts, 4 words");
    expect(page.textContent).toContain("Par");
  });

  test("stays as the reader wants it", async () => {
    const { page, draw } = place();
    const summary = () => page.querySelector("summary") as HTMLElement;
    await draw(<Markdown text="<think>Hm" growing />);
    summary().click();
    await draw(<Markdown text="<think>Hm, so" growing />);
    expect(fold(page).open).toBe(false);
    summary().click();
    await draw(<Markdown text={"<think>Hm, so</think>\nParis."} growing={false} />);
    expect(fold(page).open).toBe(true);
  });

  test("counts one word as one", async () => {
    const { page, draw } = place();
    await draw(<Markdown text={"<think>Hm.</think>\nParis."} growing={false} />);
    expect(page.querySelector("summary")?.textContent).toBe("Thoughts, 1 word");
  });
});

test("a table stands in a box of its own, and a cell of many words keeps some width", async () => {
  const { page, draw } = place();
  await draw(
    <Markdown
      text={"| a | b |\n|---|---|\n| 1 | a cell with quite a few words |"}
      growing={false}
    />,
  );
  expect(page.querySelector("table")?.parentElement?.className).toContain("ollm-wide");
  expect(page.querySelectorAll("td.ollm-long")).toHaveLength(1);
  expect(all(page, "group")).toEqual([]);
});
