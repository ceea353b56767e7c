import type { ActivityView } from "../protocol";

interface Props {
  activity: ActivityView;
  onSwitch: (on: boolean) => void;
}

/** Switches tracing of the next answer on and off, and says why there is none. */
export function TraceSwitch({ activity, onSwitch }: Props) {
  const on = activity.tracing !== "off";
  const disabled = !on && activity.untraceable !== "";
  return (
    <div class="ollm-trace-switch">
      <button
        type="button"
        aria-pressed={on}
        aria-disabled={disabled}
        onClick={() => !disabled && onSwitch(!on)}
      >
        Trace the next answer
      </button>
      <span class="ollm-dim ollm-small" role="status" aria-label="Trace">
        {disabled ? activity.untraceable : STATES[activity.tracing]}
      </span>
    </div>
  );
}

const STATES: Record<ActivityView["tracing"], string> = {
  off: "",
  starting: "Waits for the answer that runs.",
  on: "Ask something: the answer is recorded layer by layer.",
};
