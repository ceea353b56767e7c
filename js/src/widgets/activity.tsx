import { widget } from "../mount/widget";
import { Activity } from "../parts/activity-region";

export default widget(Activity);
