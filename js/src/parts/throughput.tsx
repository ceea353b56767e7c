import { useState } from "preact/hooks";
import type { ActivityView } from "../protocol";
import { paceSteps, type Step } from "./activity-pace";
import { formatMs, formatRate, ticks } from "./activity-units";
import { Picture, Told } from "./picture";
import { Plot } from "./plot";
import { PlotCursor } from "./plot-cursor";

type PaceView = NonNullable<ActivityView["pace"]>;

const TITLE = "Speed of the last answer";
/** The share of the width that reading the prompt takes at least, to hold its text, and at most. */
const READING = { least: 20, most: 34 };

/** How fast the latest answer is written, after its prompt was read. */
export function Throughput({ pace }: { pace: PaceView }) {
  const [pointed, setPointed] = useState<number | null>(null);
  const [chosen, setChosen] = useState<number | null>(null);
  const steps = paceSteps(pace);
  const last = steps.length - 1;
  const at = Math.min(pointed ?? chosen ?? last, last);
  const step = steps[at];
  const average = pace.tokens_per_s;
  const most = Math.max(average, ...steps.map(({ rate }) => rate)) * 1.08;
  const fromS = pace.at_s[0] ?? 0;
  const spanS = Math.max(pace.seconds - fromS, 1e-4);
  const share = pace.seconds > 0 ? (pace.first_token_s / pace.seconds) * 100 : 0;
  return (
    <Picture
      title={TITLE}
      aside={average > 0 ? `${formatRate(average)} tokens/s on average` : undefined}
      table={() => ({
        columns: ["Tokens", "Tokens/s", "After"],
        rows: steps.map((one) => [tokensOf(one), formatRate(one.rate), formatMs(one.toS * 1000)]),
      })}
    >
      <div class="ollm-pace">
        <div
          class={pace.state === "reading" ? "ollm-pace-reading ollm-goes-on" : "ollm-pace-reading"}
          style={{ flexBasis: `${Math.max(READING.least, Math.min(READING.most, share))}%` }}
        >
          <ReadingText pace={pace} />
        </div>
        {steps.length > 0 && (
          <Plot
            width={spanS}
            label={pace.text}
            lines={[
              ...ticks(most)
                .filter((value) => Math.abs(value - average) > most * 0.14)
                .map((value) => ({ at: (value / most) * 100, text: String(value) })),
              ...(average > 0
                ? [
                    {
                      at: (average / most) * 100,
                      text: formatRate(average),
                      kind: "average" as const,
                    },
                  ]
                : []),
            ]}
            over={
              <PlotCursor
                label="Tokens of the answer"
                edges={[...steps.map((one) => (one.fromS - fromS) / spanS), 1]}
                at={at}
                valueText={step ? tell(step) : ""}
                onPoint={setPointed}
                onChoose={setChosen}
              />
            }
          >
            <path class="ollm-pace-area" d={area(steps, fromS, most)} />
            <path class="ollm-pace-line" d={outline(steps, fromS, most)} />
          </Plot>
        )}
      </div>
      {steps.length > 0 && (
        <div class="ollm-axis ollm-dim" aria-hidden="true">
          <span style={{ flexBasis: `${Math.max(READING.least, Math.min(READING.most, share))}%` }}>
            0 s
          </span>
          <span>{formatMs((pace.tokens[0] === 1 ? pace.first_token_s : fromS) * 1000)}</span>
          <span class="ollm-end">{formatMs(pace.seconds * 1000)}</span>
        </div>
      )}
      <Told>{step ? tell(step) : pace.text}</Told>
    </Picture>
  );
}

function ReadingText({ pace }: { pace: PaceView }) {
  if (pace.state === "reading") return <span>Reading the prompt</span>;
  const computed = pace.prompt_tokens - pace.reused_tokens;
  return (
    <>
      <span>Prompt</span>
      <b>{formatMs(pace.first_token_s * 1000)}</b>
      <span>
        {computed.toLocaleString("en")} token{computed === 1 ? "" : "s"}
      </span>
      {pace.reused_tokens > 0 && <span>{pace.reused_tokens.toLocaleString("en")} reused</span>}
    </>
  );
}

function tokensOf({ first, last }: Step): string {
  return first === last ? `${first}` : `${first} to ${last}`;
}

function tell(step: Step): string {
  const each = ((step.toS - step.fromS) * 1000) / (step.last - step.first + 1);
  const many = step.first === step.last ? "Token" : "Tokens";
  return `${many} ${tokensOf(step)}: ${formatRate(step.rate)} tokens/s, ${formatMs(each)} each`;
}

function outline(steps: readonly Step[], fromS: number, most: number): string {
  return steps
    .map(({ fromS: start, toS, rate }, index) => {
      const y = round(100 - (rate / most) * 100);
      return `${index ? "L" : "M"}${round(start - fromS)} ${y}H${round(toS - fromS)}`;
    })
    .join("");
}

function area(steps: readonly Step[], fromS: number, most: number): string {
  const line = outline(steps, fromS, most);
  return line ? `${line}V100H0z` : "";
}

function round(value: number): number {
  return Math.round(value * 1e4) / 1e4;
}
