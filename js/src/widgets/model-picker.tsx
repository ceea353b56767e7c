import { widget } from "../mount/widget";
import { Models } from "../parts/models";

export default widget(Models);
