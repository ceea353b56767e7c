import { widget } from "../mount/widget";
import { Plan } from "../parts/plan";

export default widget(Plan);
