import { widget } from "../mount/widget";
import { Capabilities } from "../parts/capabilities";

export default widget(Capabilities);
