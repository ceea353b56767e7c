import "../style/problem.css";
import type { ComponentChildren } from "preact";
import type { Problem } from "../protocol";

interface Props {
  problem: Problem | null;
  onDismiss?: (() => void) | undefined;
  children?: ComponentChildren;
}

/** An error where it happened: what, the hint, and what can be done about it. */
export function ProblemNote({ problem, onDismiss, children }: Props) {
  if (!problem) return null;
  return (
    <div class="ollm-problem" role="alert">
      <div class="ollm-problem-text">
        <strong>{problem.message}</strong>
        {problem.hint && <span>{problem.hint}</span>}
      </div>
      {children}
      {onDismiss && (
        <button type="button" class="ollm-quiet" onClick={onDismiss}>
          Dismiss
        </button>
      )}
    </div>
  );
}
