import { expect, test } from "vitest";
import { highlight } from "./highlight";

const of = (kind: string, code: string, language: string) =>
  highlight(code, language)
    ?.filter((piece) => piece.kind === kind)
    .map((piece) => piece.text);

test.each([
  ["python", "def f(x):\n    return 1  # one", "def"],
  ["javascript", "const a = 1;", "const"],
  ["typescript", "interface A { b: string }", "interface"],
  ["bash", "for a in b; do echo $a; done", "do"],
  ["c", "int main(void) { return 0; }", "return"],
  ["cpp", "template <typename T> class A {};", "template"],
  ["java", "public class A {}", "public"],
  ["rust", "fn main() { let a = 1; }", "fn"],
  ["go", "func main() {}", "func"],
  ["sql", "SELECT a FROM b", "SELECT"],
])("%s has its words coloured", (language, code, word) => {
  expect(of("kwd", code, language)).toContain(word);
});

test.each([
  ["json", '{"a": 1}', "1"],
  ["yaml", "a: 1", "1"],
  ["css", "a { margin: 1px }", "1px"],
])("%s has its values coloured", (language, code, value) => {
  expect(highlight(code, language)?.some(({ kind, text }) => kind && value.includes(text))).toBe(
    true,
  );
});

test("marks the lines that a difference adds and takes away", () => {
  expect(of("insert", "+a\n-b\n c", "diff")).toEqual(["+a"]);
  expect(of("deleted", "+a\n-b\n c", "diff")).toEqual(["-b"]);
});

test.each(["python", "html", "js", "md", "yaml", "xml"])("loses nothing of %s", (language) => {
  for (const code of ["", "\n\n", "<a b='c", "'''", "`${`${", "𝒙 = 'é'\t\r\n", "{{{{]]]]"]) {
    expect(
      highlight(code, language)
        ?.map(({ text }) => text)
        .join(""),
    ).toBe(code);
  }
});

test.each(["", "brainfuck", "constructor", "__proto__"])("leaves %o plain", (language) => {
  expect(highlight("return 1", language)).toBeUndefined();
});

test("leaves what would take long to read plain", () => {
  expect(highlight("a ".repeat(20_000), "python")).toBeUndefined();
  expect(highlight(`x = ${"a".repeat(1_000)}`, "python")).toBeUndefined();
  expect(highlight(" ".repeat(1_000), "python")).toBeUndefined();
});
