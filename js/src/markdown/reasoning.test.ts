import { describe, expect, test } from "vitest";
import { countWords, Stretches, spoken, stretches } from "./reasoning";

const kinds = (text: string) => stretches(text).map(({ is, text }) => [is, text.trim()]);
const THOUGHT_AND_SAID = [
  ["reasoning", "It is Paris."],
  ["answer", "Paris."],
];

describe("what was thought is told from what is said", () => {
  test.each([
    ["Qwen, DeepSeek, GLM", "<think>\nIt is Paris.\n</think>\n\nParis."],
    ["on one line", "<think>It is Paris.</think>Paris."],
    ["a long tag", "<thinking>It is Paris.</thinking>\nParis."],
    ["another tag", "<reasoning>It is Paris.</reasoning>\nParis."],
    ["Seed", "<seed:think>It is Paris.</seed:think>Paris."],
    ["opened by the template", "It is Paris.\n</think>\n\nParis."],
    ["opened by the template, closed in the line", "It is Paris.</think>\nParis."],
    ["Magistral", "[THINK]It is Paris.[/THINK]Paris."],
    ["Kimi", "◁think▷It is Paris.◁/think▷Paris."],
    [
      "gpt-oss",
      "<|channel|>analysis<|message|>It is Paris.<|end|><|start|>assistant<|channel|>final<|message|>Paris.",
    ],
    ["gpt-oss without its special tokens", "analysisIt is Paris.assistantfinalParis."],
    ["Gemma", "<|channel>thought\nIt is Paris.<channel|>Paris."],
  ])("%s", (_name, text) => {
    expect(kinds(text)).toEqual(THOUGHT_AND_SAID);
    expect(spoken(text)).toBe("Paris.");
  });

  test("while it is still thinking", () => {
    expect(stretches("<think>\nHm")).toEqual([{ is: "reasoning", text: "\nHm", open: true }]);
    expect(spoken("<think>\nHm")).toBe("");
  });

  test("several times in one answer", () => {
    expect(kinds("<think>a</think>\nOne.\n\n<think>b</think>\nTwo.").map(([is]) => is)).toEqual([
      "reasoning",
      "answer",
      "reasoning",
      "answer",
    ]);
  });

  test("and an empty thought is none", () => {
    expect(kinds("<think>\n\n</think>\n\nParis.")).toEqual([["answer", "Paris."]]);
  });
});

test.each([
  "Write `<think>` before and `</think>` after.",
  "The tag <think> opens it and </think> closes it.",
  "An example:\n\n```\n<think>\nhm\n```\n\nThat is all.",
  "analysis of the data shows",
  "Analysis: it rained.",
  "",
])("an answer that only speaks of it is left whole: %o", (text) => {
  expect(stretches(text).every(({ is }) => is === "answer")).toBe(true);
  expect(spoken(text)).toBe(text);
});

test("words are counted in every script", () => {
  expect(countWords("  one two\nthree ")).toBe(3);
  expect(countWords("今日は good")).toBe(4);
  expect(countWords("")).toBe(0);
});

test.each(["<think>", "a\n<think>b</think>c", "a</think>\nb", "[THINK]a[/THINK]b", "analysisWell"])(
  "a text that grows to %j is split as if it had come at once",
  (text) => {
    const growing = new Stretches();
    for (let length = 0; length <= text.length; length += 1) {
      const grown = text.slice(0, length);
      const whole = stretches(grown);
      expect(growing.read(grown)).toEqual(whole);
    }
    expect(growing.read("another")).toEqual(stretches("another"));
  },
);
