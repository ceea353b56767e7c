import "../style/progress.css";

const WARN_FROM = 0.8;

/** How much of the context the conversation has used, and what is left of it. */
export function Meter({ used, limit }: { used: number; limit: number }) {
  if (limit <= 0) return null;
  const share = Math.min(1, used / limit);
  const left = Math.max(0, limit - used);
  const text = `${number(used)} of ${number(limit)} tokens`;
  const warns = share >= WARN_FROM;
  return (
    <div class={warns ? "ollm-meter ollm-meter-warns" : "ollm-meter"}>
      <span class="ollm-dim ollm-small">{text}</span>
      {/* biome-ignore lint/a11y/useSemanticElements: browsers do not let a meter take the theme's colours */}
      <div
        class="ollm-track"
        role="meter"
        aria-label="Context used"
        aria-valuemin={0}
        aria-valuemax={limit}
        aria-valuenow={used}
        aria-valuetext={text}
        title="What the model has read and written, of what it can keep in mind"
      >
        <i class="ollm-fill ollm-fill-kv" style={{ width: `${share * 100}%` }} />
      </div>
      <span class="ollm-dim ollm-small">{number(left)} left</span>
      {/* Always there, so that a screen reader notices when its text appears. */}
      <span role="status" class="ollm-warn ollm-small">
        {left === 0
          ? "The context is full. Start a new chat, or edit an earlier question."
          : warns && "Nearly full: what is left has to hold the next question and its answer."}
      </span>
    </div>
  );
}

function number(tokens: number): string {
  return tokens.toLocaleString("en");
}
