import { widget } from "../mount/widget";
import { Workbench } from "../parts/workbench";

export default widget(Workbench);
