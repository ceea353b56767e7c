import "../style/progress.css";

interface Props {
  name: string;
  /** From 0 to 1; null where the end is unknown. */
  share: number | null;
  text: string;
}

export function Progress({ name, share, text }: Props) {
  const percent = share === null ? undefined : Math.round(Math.min(1, Math.max(0, share)) * 100);
  return (
    <div
      class="ollm-track"
      role="progressbar"
      aria-label={name}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={percent}
      aria-valuetext={text || undefined}
    >
      <i
        class={percent === undefined ? "ollm-fill ollm-unknown" : "ollm-fill"}
        style={percent === undefined ? undefined : { width: `${percent}%` }}
      />
    </div>
  );
}
