import { expect, test, vi } from "vitest";
import { Blocks } from "./blocks";
import * as sanitizing from "./sanitize";

test("a growing text sanitises only its last block again", () => {
  const sanitize = vi.spyOn(sanitizing, "sanitize");
  const blocks = new Blocks();
  blocks.render("one\n\ntwo\n\nthr");
  sanitize.mockClear();
  expect(blocks.render("one\n\ntwo\n\nthree")).toEqual([
    "<p>one</p>\n",
    "<p>two</p>\n",
    "<p>three</p>\n",
  ]);
  expect(sanitize).toHaveBeenCalledTimes(1);
});

test("a link defined further down reaches the blocks above", () => {
  const blocks = new Blocks();
  expect(blocks.render("see [this][1]").join("")).not.toContain("<a");
  expect(blocks.render("see [this][1]\n\n[1]: https://example.org").join("")).toContain(
    'href="https://example.org"',
  );
});

test("an unfinished code fence is drawn as code", () => {
  expect(new Blocks().render("```python\nprint(1)")).toEqual([
    "<pre><code>print(1)\n</code></pre>\n",
  ]);
});

test("tasks are drawn without form controls", () => {
  expect(new Blocks().render("- [x] done\n- [ ] open").join("")).toContain("☑ done");
});
