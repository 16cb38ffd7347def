// What a message of a room means.
//
// The pages' own messages are JSON {id, user, text, at}; in raw rooms the hub speaks as {hub: {hello}} and
// {hub: {error}}. Anybody may send anything else, so nothing here trusts a type.

const DAY = 24 * 60 * 60 * 1000;
// A history may be kept for long.
const YEAR = 366 * DAY;
const LONGEST_NAME = 80;
const LONGEST_TEXT = 16000;
const MOST_BYTES = 64;

// A frame of a raw room: text or an ArrayBuffer.
export function readFrame(data) {
  if (typeof data !== "string") return binary(new Uint8Array(data));
  const value = parse(data);
  if (isText(value.hub?.error?.message)) return { kind: "error", why: clip(value.hub.error.message), data };
  if (value.hub?.hello) return readHello(value.hub.hello, data);
  return isMessage(value) ? readMessage(value, DAY) : rawFrame(data);
}

// The data of a publication: any JSON value. A raw client's text is a string here, its bytes are Base64 in an object.
export function readData(data) {
  const value = Object(data);
  if (isMessage(value)) return readMessage(value, YEAR);
  const bytes = isText(value.b64data) ? decode(value.b64data) : null;
  if (bytes !== null) return binary(bytes);
  return rawFrame(isText(data) ? data : JSON.stringify(data));
}

export function rawFrame(data) {
  return { kind: "raw", user: "raw message", text: clip(data) };
}

// A name that somebody gave himself.
export function readName(name) {
  return (isText(name) && name.trim().slice(0, LONGEST_NAME)) || "somebody";
}

function isMessage(value) {
  return isText(value.text) && isText(value.user);
}

// Anybody may say hello: nothing but these is taken from it.
function readHello({ node, worker }, data) {
  return { kind: "hello", node, worker, data };
}

function readMessage({ id, user, text, at }, age) {
  return { kind: "message", id: isText(id) ? id : null, user: readName(user), text: clip(text), at: plausible(at, age) };
}

function binary(bytes) {
  return { kind: "raw", user: "binary message", text: hex(bytes) };
}

// Clocks differ and senders may lie: no message comes from the future, or from long ago.
function plausible(at, age) {
  const now = Date.now();
  return Number.isFinite(at) && at > now - age ? Math.min(at, now) : now;
}

function parse(data) {
  try {
    return Object(JSON.parse(data));
  } catch {
    return {};
  }
}

function decode(base64) {
  try {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  } catch {
    return null;
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
