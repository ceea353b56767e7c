import { widget } from "../mount/widget";
import { Chat } from "../parts/chat";

export default widget(Chat);
