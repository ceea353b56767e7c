import type { Field } from "../protocol";

/** What both kinds of control take. */
export interface ControlProps {
  id: string;
  field: Field;
  value: string;
  describedBy: string;
  onEdit: (value: string) => void;
}
