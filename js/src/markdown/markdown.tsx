import "../style/markdown.css";
import { useMemo } from "preact/hooks";
import { Prose } from "./prose";
import { Stretches } from "./reasoning";
import { Thoughts } from "./thoughts";
import { useEachFrame } from "./use-each-frame";

interface Props {
  text: string;
  /** The text still grows: then it is drawn at most once a frame. */
  growing: boolean;
}

/** A model's text: what it thought, folded, and what it says, as sanitised Markdown. */
export function Markdown({ text, growing }: Props) {
  const drawn = useEachFrame(text, growing);
  const reader = useMemo(() => new Stretches(), []);
  const parts = useMemo(() => reader.read(drawn), [reader, drawn]);
  return (
    <div class="ollm-markdown">
      {parts.map((part, index) =>
        part.is === "reasoning" ? (
          <Thoughts key={index} text={part.text} thinking={growing && part.open} />
        ) : (
          <Prose key={index} text={part.text} growing={growing && part.open} />
        ),
      )}
    </div>
  );
}
