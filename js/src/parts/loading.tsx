import "../style/loading.css";
import type { StageView } from "../protocol";
import { ProblemNote } from "./problem";
import { Progress } from "./progress";
import type { PartProps } from "./props";
import { useAsk } from "./use-ask";

/** Region `Loading`: start, follow and cancel a load. */
export function Loading({ session }: PartProps) {
  const loading = session.view.loading.value;
  const { ask, problem, dismiss } = useAsk(session);
  const running = loading.state === "loading" || loading.state === "cancelling";
  const load = () => void ask("load", {});
  return (
    <section aria-label="Loading" class="ollm-part ollm-loading">
      <div class="ollm-loading-row">
        <button type="button" class="ollm-go" disabled={!loading.can_load} onClick={load}>
          Load
        </button>
        <div class="ollm-stages">
          {loading.stages.map((stage) => (
            <Stage key={stage.name} stage={stage} />
          ))}
          <span role="status" class="ollm-dim ollm-small">
            {loading.state === "cancelling" ? "Cancelling…" : loading.summary}
          </span>
        </div>
        {running && (
          <button
            type="button"
            disabled={loading.state === "cancelling"}
            onClick={() => void ask("cancel", {})}
          >
            Cancel
          </button>
        )}
      </div>
      <ProblemNote problem={loading.problem}>
        <button type="button" onClick={load}>
          Retry
        </button>
      </ProblemNote>
      <ProblemNote problem={problem} onDismiss={dismiss} />
    </section>
  );
}

function Stage({ stage }: { stage: StageView }) {
  return (
    <div class={`ollm-stage ollm-stage-${stage.state}`}>
      <span class="ollm-stage-name">{stage.name}</span>
      <Progress name={stage.name} share={shareOf(stage)} text={stage.text} />
      <span class="ollm-stage-text ollm-dim ollm-small">{stage.text}</span>
      {stage.files.map((file) => (
        <div class="ollm-stage ollm-file" key={file.name}>
          <span class="ollm-stage-name ollm-dim ollm-small" title={file.name}>
            {file.name}
          </span>
          <Progress
            name={file.name}
            share={file.total_bytes > 0 ? file.done_bytes / file.total_bytes : null}
            text={file.text}
          />
          <span class="ollm-stage-text ollm-dim ollm-small">{file.text}</span>
        </div>
      ))}
    </div>
  );
}

/** How much of a stage is done, 0 to 1; null where a running stage has no known end. */
export function shareOf(stage: StageView): number | null {
  if (stage.state === "done") return 1;
  if (stage.total_bytes > 0) return stage.done_bytes / stage.total_bytes;
  return stage.state === "running" ? null : 0;
}
