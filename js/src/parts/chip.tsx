import "../style/chip.css";
import type { Chip as ChipView } from "../protocol";

export function Chip({ chip, id }: { chip: ChipView; id?: string }) {
  return (
    <span id={id} class={`ollm-chip ollm-${chip.tone}`}>
      {chip.text}
    </span>
  );
}
