import { expect, test } from "vitest";
import { Blocks } from "./blocks";

const kinds = (text: string) => new Blocks().read(text).map((block) => block.is);
const html = (blocks: Blocks, text: string) =>
  blocks
    .read(text)
    .map((block) => (block.is === "html" ? block.html() : block.text))
    .join("");

const LONG = [
  "# Title",
  "A paragraph with $x^2$ and [a link][1].\nIts second line.",
  "- one\n- two\n\n  more of two\n\n- three",
  "```python\nprint(1)\n\n# more\n```",
  "| a | b |\n|---|---|\n| 1 | 2 |",
  "\\[\n\\sum_i x_i\n\\]",
  "    indented code\n\n    and more",
  "> a quote\nthat goes on",
  "<div>\nhtml\n</div>",
  "[1]: https://example.org",
  "Setext\n---",
  "last words",
].join("\n\n");

test("a growing text keeps every block but its last", () => {
  const blocks = new Blocks();
  const [first, second] = blocks.read("one\n\ntwo\n\nthr");
  const grown = blocks.read("one\n\ntwo\n\nthree");
  expect(grown[0]).toBe(first);
  expect(grown[1]).toBe(second);
  expect(html(blocks, "one\n\ntwo\n\nthree")).toContain("<p>three</p>");
});

test("a text that grows character by character ends as if it had come at once", () => {
  const growing = new Blocks();
  for (let length = 1; length <= LONG.length; length += 1) {
    const text = LONG.slice(0, length);
    expect(html(growing, text), text).toBe(html(new Blocks(), text));
  }
});

test("a text that is replaced is read anew", () => {
  const blocks = new Blocks();
  blocks.read("one\n\ntwo");
  expect(html(blocks, "three")).toBe("<p>three</p>\n");
  expect(html(blocks, "")).toBe("");
});

test("a link defined further down reaches the blocks above", () => {
  const blocks = new Blocks();
  expect(html(blocks, "see [this][1]\n\nand")).not.toContain("<a");
  expect(html(blocks, "see [this][1]\n\nand\n\n[1]: https://example.org")).toContain(
    'href="https://example.org"',
  );
  expect(html(blocks, "see [this][1]\n\nbut")).not.toContain("<a");
});

test("an unfinished code fence is code", () => {
  expect(new Blocks().read("```python\nprint(1)")).toEqual([
    { is: "code", text: "print(1)", language: "python" },
  ]);
  expect(kinds("    x = 1")).toEqual(["code"]);
});

test("tasks are drawn without form controls", () => {
  expect(html(new Blocks(), "- [x] done\n- [ ] open")).toContain("☑ done");
});

test.each([">", "- ", "1. "])("a text of nothing but %o is kept as it is, however long", (mark) => {
  const blocks = new Blocks();
  for (const end of ["x", "x<b onclick=x>"]) {
    const text = mark.repeat(20_000) + end;
    expect(blocks.read(text)).toEqual([{ is: "plain", text }]);
  }
  expect(html(blocks, "*now*")).toContain("<em>now</em>");
});

test("a text that grows in pieces of any kind ends as if it had come at once", () => {
  const marks =
    "# T\n|## x\n\n|words |*stars* and `code`|\n|\n\n|- one|- two\n|1. a\n|2|. b|   more|```py\n|```\n|> quote\n|---\n|<div>\n|</div>\n|$$|x^2|end";
  const pieces = marks.split("|");
  let seed = 7;
  const upTo = (count: number) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor((seed / 2147483648) * count);
  };
  for (let round = 0; round < 150; round += 1) {
    const growing = new Blocks();
    let text = "";
    for (let step = 0; step < 20; step += 1) {
      text += pieces[upTo(pieces.length)];
      expect(html(growing, text), text).toBe(html(new Blocks(), text));
    }
  }
});

test("what has settled is the same object however much follows", () => {
  const blocks = new Blocks();
  let text = "";
  let before: readonly unknown[] = [];
  for (let number = 0; number < 200; number += 1) {
    text += `## ${number}\n\nSome words.\n\n`;
    const read = blocks.read(text);
    for (const [index, block] of before.entries()) expect(read[index]).toBe(block);
    before = read;
  }
  expect(before).toHaveLength(400);
});
