import { widget } from "../mount/widget";
import { Shelf } from "../parts/shelf";

export default widget(Shelf);
