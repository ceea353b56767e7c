import "../style/activity.css";
import { Occupancy } from "./occupancy";
import { ProblemNote } from "./problem";
import type { PartProps } from "./props";
import { Throughput } from "./throughput";
import { TraceSwitch } from "./trace-switch";
import { Truth } from "./truth";
import { useAsk } from "./use-ask";
import { Waterfall } from "./waterfall";

/** Region `Activity`: what a model does while it answers, in pictures. */
export function Activity({ session }: PartProps) {
  const activity = session.view.activity.value;
  const { pace, kv, trace, truth, problem: untraced } = activity;
  const { ask, problem, dismiss } = useAsk(session);
  const empty = !pace && !kv && !trace && truth.length === 0;
  return (
    <section aria-label="Activity" class="ollm-part ollm-card ollm-activity">
      <div class="ollm-card-head">
        <h3 class="ollm-heading">Activity</h3>
        {empty && <p class="ollm-empty">Pictures of speed and memory, once a model is loaded.</p>}
      </div>
      {!empty && (
        <div class="ollm-pictures">
          <div>
            {!pace && !trace && (
              <p class="ollm-empty">Ask something: how fast the answer comes is drawn here.</p>
            )}
            {pace && <Throughput pace={pace} />}
            {trace && <Waterfall trace={trace} session={session} />}
            <TraceSwitch activity={activity} onSwitch={(on) => void ask("trace", { on })} />
            {untraced && <p class="ollm-small ollm-warn">{untraced}</p>}
            <ProblemNote problem={problem} onDismiss={dismiss} />
          </div>
          <div>
            {kv && <Occupancy kv={kv} />}
            <Truth items={truth} text={activity.truth_text} />
          </div>
        </div>
      )}
    </section>
  );
}
