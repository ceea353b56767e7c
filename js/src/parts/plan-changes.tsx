import type { PlanView } from "../protocol";

type Change = PlanView["changes"][number];

/** What the last edit changed; a live region, so it is there before there is anything to say. */
export function PlanChanges({ changes, quiet }: { changes: readonly Change[]; quiet: boolean }) {
  return (
    <div role="status" aria-label="Changes" aria-live={quiet ? "off" : "polite"}>
      {changes.length > 0 && (
        <ul class="ollm-changes">
          {changes.map((change, index) => (
            <li key={index}>
              <span class="ollm-dim">{change.term}</span>
              <span>
                <span class="ollm-before">{change.before}</span>
                <span aria-hidden="true"> → </span>
                <span class="ollm-hidden"> became </span>
                <b>{change.after}</b>
                {change.why && (
                  <span class="ollm-why ollm-dim" title={change.why}>
                    {change.why}
                  </span>
                )}
              </span>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
