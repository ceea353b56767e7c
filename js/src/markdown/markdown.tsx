import "../style/markdown.css";
import { useMemo } from "preact/hooks";
import { Blocks } from "./blocks";
import { useEachFrame } from "./use-each-frame";

interface Props {
  text: string;
  /** The text still grows: then it is drawn at most once a frame. */
  growing: boolean;
}

/** A model's text, as sanitised Markdown. */
export function Markdown({ text, growing }: Props) {
  const blocks = useMemo(() => new Blocks(), []);
  const drawn = useEachFrame(text, growing);
  const html = useMemo(() => blocks.render(drawn), [blocks, drawn]);
  return (
    <div class="ollm-markdown">
      {html.map((block, index) => (
        // Sanitised in blocks.ts, the only source of this HTML.
        <div key={index} dangerouslySetInnerHTML={{ __html: block }} />
      ))}
    </div>
  );
}
