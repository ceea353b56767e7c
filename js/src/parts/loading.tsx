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
  const load = (anyway: boolean) => void ask("load", { anyway });
  const notYet =
    loading.state === "idle" && loading.can_load
      ? `${session.view.title.value} is not loaded yet.`
      : "";
  const ended = loading.stages.filter(({ state }) => state === "done");
  return (
    <section aria-label="Loading" class="ollm-part ollm-loading">
      <div class="ollm-loading-row">
        <button
          type="button"
          // Once it is loaded, the next step is to talk to it.
          class={loading.state === "loaded" ? undefined : "ollm-go"}
          disabled={!loading.can_load}
          onClick={() => load(false)}
        >
          Load
        </button>
        <div class="ollm-stages">
          {loading.stages
            .filter(({ state }) => state !== "done")
            .map((stage) => (
              <Stage key={stage.name} stage={stage} />
            ))}
          <span role="status" class="ollm-small">
            {loading.state === "cancelling" ? "Cancelling…" : loading.summary || notYet}
          </span>
          {ended.length > 0 && (
            <ul class="ollm-ended ollm-dim ollm-small" aria-label="Ended stages">
              {ended.map(({ name, text }) => (
                <li key={name}>{text ? `${name}: ${text}` : name}</li>
              ))}
            </ul>
          )}
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
        <button type="button" onClick={() => load(false)}>
          Retry
        </button>
        {loading.problem?.code === "no-room" && (
          <button type="button" onClick={() => load(true)}>
            Load anyway
          </button>
        )}
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
        <div class="ollm-stage ollm-stage-file" key={file.name}>
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
