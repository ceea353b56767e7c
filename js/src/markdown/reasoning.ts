/** A stretch of an answer: what the model thought, or what it says. */
export interface Stretch {
  is: "reasoning" | "answer";
  text: string;
  /** Its end mark has not come. */
  open: boolean;
}

interface Marks {
  opens: RegExp;
  closes: RegExp;
}

// How models write it: as tags (Qwen, DeepSeek, GLM, MiniMax, Seed), in brackets (Magistral, Kimi),
// or as a channel (gpt-oss; its marks are special tokens, which decoding leaves out, so that only
// the words between them may arrive).
const TAGS = "think|thinking|thought|reasoning|seed:think";
const MARKS: readonly Marks[] = [
  ...TAGS.split("|").map((tag) => ({
    opens: new RegExp(`^<${tag}>`, "i"),
    closes: new RegExp(`</${tag}>`, "i"),
  })),
  { opens: /^\[THINK\]/, closes: /\[\/THINK\]/ },
  { opens: /^◁think▷/, closes: /◁\/think▷/ },
  {
    opens: /^<\|channel\|>analysis<\|message\|>/,
    closes: /(<\|end\|>\s*)?(<\|start\|>assistant\s*)?<\|channel\|>final<\|message\|>/,
  },
  { opens: /^analysis(?=[A-Z"'“(])/, closes: /assistantfinal/ },
  { opens: /^<\|channel>thought\b/, closes: /<channel\|>/ },
];
const LONGEST_MARK = 40;

// Where a template has opened the block itself, the answer begins inside it. An answer that only
// speaks of the tag has it in the middle of a line.
const ONLY_CLOSED = new RegExp(
  `^[ \\t]*</(?:${TAGS})>|^◁/think▷|^\\[/THINK\\]|</(?:${TAGS})>[ \\t]*$`,
  "im",
);
// Where no text has any of it, all is answer.
const CLUE = new RegExp(`</?(?:${TAGS})>|\\[/?THINK\\]|◁|<\\|?channel|^[ \\t]*analysis`, "im");
const FENCE = /^ {0,3}(`{3,}|~{3,})/;

/** The stretches of a text that may grow; while nothing is thought, only its end is looked at. */
export class Stretches {
  #clear = "";

  read(text: string): Stretch[] {
    if (!text.startsWith(this.#clear)) this.#clear = "";
    // A mark may have come in two pieces.
    const news = text.slice(Math.max(this.#clear.length - LONGEST_MARK, 0));
    if (CLUE.test(news)) return stretches(text);
    this.#clear = text;
    return text.trim() === "" ? [] : [{ is: "answer", text, open: true }];
  }
}

/** Split an answer into what was thought and what is said, in order. */
export function stretches(text: string): Stretch[] {
  const found: Stretch[] = [];
  let rest = text;
  const closed = ONLY_CLOSED.exec(rest);
  if (closed && !opening(rest, 0) && firstOpening(rest.slice(0, closed.index)) === undefined) {
    add(found, "reasoning", rest.slice(0, closed.index), false);
    rest = rest.slice(closed.index + closed[0].length);
  }
  for (;;) {
    const start = firstOpening(rest);
    if (start === undefined) break;
    add(found, "answer", rest.slice(0, start.index), false);
    const inside = rest.slice(start.index + start.length);
    const end = start.marks.closes.exec(inside);
    if (!end) {
      add(found, "reasoning", inside, true);
      return found;
    }
    add(found, "reasoning", inside.slice(0, end.index), false);
    rest = inside.slice(end.index + end[0].length);
  }
  add(found, "answer", rest, true);
  return found;
}

/** What the model says, without what it thought: what is copied. */
export function spoken(text: string): string {
  return stretches(text)
    .filter((stretch) => stretch.is === "answer")
    .map((stretch) => stretch.text.trim())
    .join("\n\n");
}

/** Words, and each character of a script that writes without spaces. */
export function countWords(text: string): number {
  const words =
    /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}]|[^\s\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}]+/gu;
  return text.match(words)?.length ?? 0;
}

function add(found: Stretch[], is: Stretch["is"], text: string, open: boolean): void {
  if (text.trim() !== "") found.push({ is, text, open });
}

interface Opening {
  index: number;
  length: number;
  marks: Marks;
}

/** The first mark at the start of a line that is not code. */
function firstOpening(text: string): Opening | undefined {
  let fence = "";
  let index = 0;
  for (const line of text.split("\n")) {
    const mark = FENCE.exec(line)?.[1] ?? "";
    if (!fence) {
      const found = opening(text, index);
      if (found) return found;
      fence = mark;
    } else if (mark.startsWith(fence)) {
      fence = "";
    }
    index += line.length + 1;
  }
  return undefined;
}

function opening(text: string, lineStart: number): Opening | undefined {
  const line = text.slice(lineStart, lineStart + LONGEST_MARK);
  const index = lineStart + line.length - line.trimStart().length;
  const head = text.slice(index, index + LONGEST_MARK);
  for (const marks of MARKS) {
    const length = marks.opens.exec(head)?.[0].length;
    if (length !== undefined) return { index, length, marks };
  }
  return undefined;
}
