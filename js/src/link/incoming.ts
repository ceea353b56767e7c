import { type AnyEvent, type AnyReply, EVENTS, PROTOCOL_VERSION, REPLIES } from "../protocol";
import { isRecord, read } from "./read";

export type Incoming =
  | { is: "event"; event: AnyEvent }
  | { is: "reply"; reply: AnyReply }
  | { is: "other version" }
  | { is: "malformed"; why: string };

/** Sort out one custom message from the kernel; never throws. */
export function incoming(message: unknown): Incoming {
  if (!isRecord(message)) return { is: "malformed", why: "not an object" };
  if (!Number.isSafeInteger(message.v)) return { is: "malformed", why: "no version" };
  if (message.v !== PROTOCOL_VERSION) return { is: "other version" };
  const kind = String(message.kind);
  try {
    if (Object.hasOwn(EVENTS, kind)) {
      return { is: "event", event: read<AnyEvent>(EVENTS[kind] as string, message) };
    }
    if (Object.hasOwn(REPLIES, kind)) {
      return { is: "reply", reply: read<AnyReply>(REPLIES[kind] as string, message) };
    }
  } catch (error) {
    return { is: "malformed", why: String(error) };
  }
  return { is: "malformed", why: `unknown kind ${kind}` };
}
