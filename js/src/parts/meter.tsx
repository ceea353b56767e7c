import "../style/progress.css";

/** How much of the context the conversation has used. */
export function Meter({ used, limit }: { used: number; limit: number }) {
  if (limit <= 0) return null;
  const text = `${used.toLocaleString("en")} of ${limit.toLocaleString("en")} tokens`;
  const percent = Math.min(100, (used / limit) * 100);
  return (
    <div class="ollm-meter">
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
      >
        <i class="ollm-fill ollm-fill-kv" style={{ width: `${percent}%` }} />
      </div>
    </div>
  );
}
