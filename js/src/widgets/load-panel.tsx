import { widget } from "../mount/widget";
import { Loading } from "../parts/loading";

export default widget(Loading);
