import type { ActivityView } from "../protocol";
import { Picture } from "./picture";

type TruthItem = ActivityView["truth"][number];

/** Within a tenth a prediction is as good as true; beyond a half it misleads. */
const NEARLY = 1.1;
const FAR = 1.5;
const SCALES = [2, 4, 10, 100, 1000];

/** Each figure of the plan beside what came true: the middle is what was predicted. */
export function Truth({ items, text }: { items: readonly TruthItem[]; text: string }) {
  if (items.length === 0) return null;
  const furthest = Math.max(...items.map(({ ratio }) => Math.max(ratio, 1 / ratio)));
  const scale = SCALES.find((one) => furthest <= one) ?? 1000;
  const place = (ratio: number) => {
    const along = Math.log(ratio) / Math.log(scale);
    return 50 + Math.max(-1, Math.min(1, along)) * 50;
  };
  return (
    <Picture
      title="Predicted and measured"
      table={() => ({
        columns: ["Figure", "Predicted", "Measured", "Ratio"],
        rows: items.map(({ name, predicted, measured, ratio }) => [
          name,
          predicted,
          measured,
          `${ratio.toFixed(2)} ×`,
        ]),
      })}
    >
      <div class="ollm-truth" role="img" aria-label={[text, ...items.map(sentence)].join(" ")}>
        {items.map((item) => {
          const at = place(item.ratio);
          return (
            <div key={item.name} class={`ollm-truth-row ollm-truth-${toneOf(item.ratio)}`}>
              <span class="ollm-truth-name">
                {item.name}
                {item.remark && <small class="ollm-dim">{item.remark}</small>}
              </span>
              <span class="ollm-truth-track">
                <i
                  class="ollm-truth-bar"
                  style={{ left: `${Math.min(50, at)}%`, width: `${Math.abs(at - 50)}%` }}
                />
                <i class="ollm-truth-dot" style={{ left: `${at}%` }} />
              </span>
              <span class="ollm-truth-text">
                <span class="ollm-dim">{item.predicted} → </span>
                {item.measured}
              </span>
            </div>
          );
        })}
        <div class="ollm-truth-row ollm-truth-scale ollm-dim">
          <span />
          <span>
            <span>÷{scale}</span>
            <span>1</span>
            <span>×{scale}</span>
          </span>
          <span />
        </div>
      </div>
    </Picture>
  );
}

function toneOf(ratio: number): "ok" | "near" | "far" {
  const off = Math.max(ratio, 1 / ratio);
  if (off <= NEARLY) return "ok";
  return off <= FAR ? "near" : "far";
}

function sentence({ name, predicted, measured }: TruthItem): string {
  return `${name}: predicted ${predicted}, measured ${measured}.`;
}
