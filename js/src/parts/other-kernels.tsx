import type { OtherKernel } from "../protocol";
import { useId } from "./use-id";

interface Props {
  others: OtherKernel[];
  onAsk: (holder: string) => void;
}

/** Who else on this machine holds memory. */
export function OtherKernels({ others, onAsk }: Props) {
  const nameId = useId();
  if (others.length === 0) return null;
  return (
    <ul aria-label="Other kernels" class="ollm-others">
      {others.map(({ id, title, text, asked }, index) => (
        <li key={id}>
          <span>
            <strong id={`${nameId}-${index}`} class="ollm-strong">
              {title}
            </strong>{" "}
            <span class="ollm-dim">{text}</span>
          </span>
          <button
            type="button"
            class="ollm-quiet"
            aria-describedby={`${nameId}-${index}`}
            aria-disabled={asked}
            onClick={() => {
              if (!asked) onAsk(id);
            }}
          >
            {asked ? "Asked" : "Ask to release"}
          </button>
        </li>
      ))}
    </ul>
  );
}
