import type { ComponentChildren } from "preact";
import { useMemo, useRef } from "preact/hooks";
import { type Block, Blocks } from "./blocks";
import { CodeBlock } from "./code-block";
import { draw } from "./draw";

interface Props {
  text: string;
  growing: boolean;
}

/** Blocks that are drawn, laid out and painted together. */
const CHAPTER = 24;

/** Markdown, block by block: while it grows, only its last blocks are drawn again. */
export function Prose({ text, growing }: Props) {
  const blocks = useMemo(() => new Blocks(), []);
  const read = useMemo(() => blocks.read(text), [blocks, text]);
  const chapters = useRef<readonly Block[][]>([]);
  chapters.current = inChapters(read, chapters.current);
  return (
    <>
      {chapters.current.map((chapter, index) => (
        <Chapter
          key={index}
          blocks={chapter}
          growing={growing && (index + 1) * CHAPTER >= read.length}
        />
      ))}
    </>
  );
}

/** A long answer out of sight costs nothing, and neither does what is above the growing end. */
function Chapter({ blocks, growing }: { blocks: readonly Block[]; growing: boolean }) {
  return useMemo(
    () => (
      <div class="ollm-chapter">
        {blocks.map((block, index) => (
          <BlockView key={index} block={block} growing={growing && index === blocks.length - 1} />
        ))}
      </div>
    ),
    [blocks, growing],
  );
}

/** The blocks in groups; a group that is as before is the same object. */
function inChapters(blocks: readonly Block[], before: readonly Block[][]): Block[][] {
  const chapters: Block[][] = [];
  for (let start = 0; start < blocks.length; start += CHAPTER) {
    const chapter = blocks.slice(start, start + CHAPTER);
    const old = before[chapters.length];
    const same = old?.length === chapter.length && old.every((one, at) => one === chapter[at]);
    chapters.push(same ? old : chapter);
  }
  return chapters;
}

/** The element is the same object until the block changes, which Preact takes for "as before". */
function BlockView({ block, growing }: { block: Block; growing: boolean }) {
  return useMemo(() => <div>{content(block, growing)}</div>, [block, growing]);
}

function content(block: Block, growing: boolean): ComponentChildren {
  if (block.is === "code") return <CodeBlock {...block} growing={growing} />;
  if (block.is === "plain") return <p class="ollm-plain">{block.text}</p>;
  try {
    return draw(block.html(), growing);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return <p class="ollm-plain">{block.source}</p>;
  }
}
