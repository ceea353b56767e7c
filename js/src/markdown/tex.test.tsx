import { describe, expect, test } from "vitest";
import { place } from "../testing/draw";
import { Markdown } from "./markdown";
import { toMathml } from "./tex";

async function drawn(text: string): Promise<HTMLElement> {
  const { page, draw } = place();
  await draw(<Markdown text={text} growing={false} />);
  return page;
}

const formulas = (page: HTMLElement) =>
  [...page.querySelectorAll("math")].map((math) => math.textContent);

describe("a formula", () => {
  test.each([
    ["$x^2$", "x2"],
    ["a $x$-axis", "x"],
    ["\\(a + b\\)", "a+b"],
    ["The cost is $O(n)$.", "O(n)"],
    ["**$x$** and *$y$*", "x,y"],
    ["between $0$ and $1$", "0,1"],
    ["| a |\n|---|\n| $x_1$ |", "x1"],
  ])("stands in its line: %o", async (text, expected) => {
    const page = await drawn(text);
    expect(formulas(page).join()).toBe(expected);
    expect(page.querySelector('math[display="block"]')).toBeNull();
  });

  test.each([
    "$$x^2$$",
    "$$\nx^2\n$$",
    "\\[x^2\\]",
    "so:\n\\[\n  x^2\n\\]\nand",
    "1. so\n\n   $$x^2$$",
    "\\begin{align}\nx^2\n\\end{align}",
    "so $$x^2$$ is",
  ])("stands by itself: %o", async (text) => {
    const page = await drawn(text);
    expect(formulas(page)).toEqual(["x2"]);
    expect(page.querySelector('math[display="block"]')?.closest(".ollm-wide")).not.toBeNull();
  });

  test("is MathML to the browser", async () => {
    const math = (await drawn("$x$")).querySelector("math");
    expect(math?.namespaceURI).toBe("http://www.w3.org/1998/Math/MathML");
    expect(math?.querySelector("mi")?.namespaceURI).toBe("http://www.w3.org/1998/Math/MathML");
  });

  test.each(["$\\frac{1}{$", "$\\nosuchcommand$", "$x_$", "$\\def\\x{\\x\\x}\\x$"])(
    "that is not TeX shows as its source: %o",
    async (text) => {
      const page = await drawn(text);
      expect(formulas(page)).toEqual([]);
      expect(page.querySelector("code")?.textContent).toBe(text.slice(1, -1));
    },
  );
});

describe("a dollar sign is no formula", () => {
  test.each([
    "It costs $5 to $10.",
    "from $5-$10 a month",
    "$5 million, or 6 million $",
    "between $100k and 200k$",
    "US$5 and CA$6",
    "$HOME and $PATH",
    "$HOME/$USER",
    "cp $A:$B",
    "echo $1 $2",
    "a $ b $ c",
    "\\$5 and \\$6$",
    "`$x$` and `$y`",
    "$",
    "$$",
    "It grows: $x + ",
    "It grows:\n\n$$\nx + ",
    "\\[ x + ",
    "[a](https://example.org/$b$c)",
    "one $\n\nparagraph$ two",
  ])("%o", async (text) => {
    expect(formulas(await drawn(text))).toEqual([]);
  });
});

describe("TeX cannot fill the page", () => {
  test.each([
    "\\def\\a{xxxxxxxxxx}\\def\\b{\\a\\a\\a\\a\\a\\a}\\def\\c{\\b\\b\\b\\b\\b\\b}\\c\\c\\c\\c\\c\\c\\c",
    "{".repeat(3_000),
    "\\sqrt".repeat(900),
    "x".repeat(5_000),
    "^{".repeat(900),
  ])("%#", (tex) => {
    const before = document.querySelectorAll("*").length;
    expect(toMathml(tex, true)).toBeUndefined();
    expect(document.querySelectorAll("*").length).toBe(before);
  });

  test("nor reach out of its place", () => {
    const markup = [...(toMathml("\\rule{999em}{999em}\\hspace{-999em}x", false)?.children ?? [])]
      .map((one) => one.outerHTML)
      .join("");
    expect(markup).toContain("width");
    expect(markup).not.toMatch(/999|[1-9]\d\dem/);
  });
});
