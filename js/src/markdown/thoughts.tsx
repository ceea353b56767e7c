import { useState } from "preact/hooks";
import { Prose } from "./prose";
import { countWords } from "./reasoning";

interface Props {
  text: string;
  /** The model still thinks, and has said nothing else. */
  thinking: boolean;
}

/** What the model thought before it spoke: folded once it speaks, unless the reader opened it. */
export function Thoughts({ text, thinking }: Props) {
  const [chosen, setChosen] = useState<boolean>();
  const open = chosen ?? thinking;
  const words = countWords(text).toLocaleString("en");
  return (
    <details class="ollm-fold ollm-thoughts" open={open}>
      {/* biome-ignore lint/a11y/noStaticElementInteractions: a summary is a button already */}
      <summary
        onClick={(event) => {
          event.preventDefault();
          setChosen(!open);
        }}
      >
        {thinking ? "Thinking…" : "Thoughts,"} {words} {words === "1" ? "word" : "words"}
      </summary>
      <div class="ollm-markdown">
        <Prose text={text} growing={thinking} />
      </div>
    </details>
  );
}
