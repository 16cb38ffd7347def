// What a frame of a room means.
//
// The page's own messages are JSON text {id, user, text, at}; the hub speaks as {hub: {hello}} and {hub: {error}}. Anybody
// may send anything else to a raw room, so nothing here trusts a type.

const DAY = 24 * 60 * 60 * 1000;
const LONGEST_NAME = 80;
const LONGEST_TEXT = 16000;
const MOST_BYTES = 64;

export function readFrame(data) {
  if (typeof data !== "string") return { kind: "raw", user: "binary message", text: hex(new Uint8Array(data)) };
  const value = parse(data);
  if (isText(value.hub?.error?.message)) return { kind: "error", why: clip(value.hub.error.message), data };
  if (value.hub?.hello) return { kind: "hello", ...value.hub.hello, data };
  if (isText(value.text) && isText(value.user)) return readMessage(value);
  return rawFrame(data);
}

export function rawFrame(data) {
  return { kind: "raw", user: "raw message", text: clip(data) };
}

function readMessage({ id, user, text, at }) {
  const name = user.trim().slice(0, LONGEST_NAME) || "somebody";
  return { kind: "message", id: isText(id) ? id : null, user: name, text: clip(text), at: plausible(at) };
}

// Clocks differ and senders may lie: no message comes from the future, or from long ago.
function plausible(at) {
  const now = Date.now();
  return Number.isFinite(at) && at > now - DAY ? Math.min(at, now) : now;
}

function parse(data) {
  try {
    return Object(JSON.parse(data));
  } catch {
    return {};
  }
}

function isText(value) {
  return typeof value === "string";
}

function clip(text) {
  return text.length > LONGEST_TEXT ? `${text.slice(0, LONGEST_TEXT)} … (${text.length} characters)` : text;
}

function hex(bytes) {
  const shown = Array.from(bytes.subarray(0, MOST_BYTES), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const size = bytes.length === 1 ? "1 byte" : `${bytes.length} bytes`;
  return `${shown}${bytes.length > MOST_BYTES ? " …" : ""} (${size})`;
}
