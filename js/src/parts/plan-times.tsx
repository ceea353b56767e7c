import type { PlanView } from "../protocol";

type TimeView = PlanView["times"][number];

/** Below this share of the longest part nothing is to be gained. */
const LEAST_SHARE = 0.02;

/** What the first of the predicted times is made of, that of a token; the others are folded. */
export function PlanTimes({ times }: { times: readonly TimeView[] }) {
  const [first, ...others] = times;
  if (!first) return null;
  return (
    <div class="ollm-times">
      <Time time={first} />
      {others.length > 0 && (
        <details class="ollm-fold">
          <summary>Prompt and loading</summary>
          {others.map((time) => (
            <Time key={time.title} time={time} />
          ))}
        </details>
      )}
    </div>
  );
}

function Time({ time }: { time: TimeView }) {
  const longest = Math.max(...time.parts.map((part) => part.seconds), Number.MIN_VALUE);
  const matters = (part: TimeView["parts"][number]) => part.seconds >= longest * LEAST_SHARE;
  return (
    <div class="ollm-time">
      <h4>{time.title}</h4>
      <ol>
        {time.parts.filter(matters).map((part) => (
          <li key={part.label} title={[part.label, part.explanation].filter(Boolean).join(": ")}>
            <span class="ollm-time-label">{part.label}</span>
            <span class="ollm-time-track">
              <i style={{ width: `${(part.seconds / longest) * 100}%` }} />
            </span>
            <span class="ollm-time-text ollm-dim">{part.text}</span>
          </li>
        ))}
      </ol>
      {time.note && <p class="ollm-dim">{time.note}</p>}
    </div>
  );
}
