// Every letter has a key, and the text is the letters in the order of their keys. An edit is a list of [key, letter], or
// [key, null] for one that is taken away. All pages apply the same edits in the same order, the one of the channel: so
// all have the same text.

import { $, company, connect, follow, me } from "./frame.js";
import { between } from "./keys.js";

const ROOM = /^#[a-z0-9]{1,20}$/.test(location.hash) ? location.hash.slice(1) : "main";
// Edits after which somebody publishes a copy of the whole text; the hub keeps three times as many.
const COPY_AFTER = 100;
const MOST_EDITS = 300;

const hub = connect();
const sub = hub.subscribe(`text:${ROOM}`);
// What the channel says: letters by key. `shown` is that with our own edits, in order.
let kept = new Map();
let shown = [];
// The latest edits {offset, edit}, and the offset of the latest copy.
let recent = [];
let copiedAt = 0;
// Our edits that have not come back, by id.
const outbox = new Map();
let composing = false;

function applyTo(letters, edit) {
  for (const [key, letter] of edit) letter === null ? letters.delete(key) : letters.set(key, letter);
}

function receive({ data: { id, edit, copy, at }, offset }) {
  if (Array.isArray(copy)) begin(copy, at, offset);
  if (!Array.isArray(edit)) return render();
  recent.push({ offset, edit });
  if (recent.length > MOST_EDITS) recent.shift();
  applyTo(kept, edit);
  if (outbox.delete(id) && offset - copiedAt > COPY_AFTER) copyOut(offset);
  render();
}

// A copy is what the channel said up to `at`; what came since is applied again, here as with a newcomer.
function begin(copy, at, offset) {
  kept = new Map(copy);
  copiedAt = offset;
  for (const each of recent) if (each.offset > at) applyTo(kept, each.edit);
}

function copyOut(at) {
  copiedAt = at;
  sub.publish({ copy: [...kept], at }).catch(() => (copiedAt = 0)); // whoever edits next tries
}

function forget() {
  kept = new Map();
  recent = [];
  copiedAt = 0;
}

function current() {
  $("text").disabled = false;
  render();
  outbox.forEach(transmit); // those that are left have not arrived
}

follow(sub, { draw: receive, clear: forget, current });

function transmit(edit, id) {
  const again = () => outbox.has(id) && sub.state === "subscribed" && transmit(edit, id);
  sub.publish({ id, edit }).catch(({ code }) => code >= 100 && setTimeout(again, 1000)); // after a lost connection: `current`
}

// The page

function letters() {
  const all = new Map(kept);
  for (const edit of outbox.values()) applyTo(all, edit);
  return [...all].sort(([a], [b]) => (a < b ? -1 : 1));
}

function render() {
  if (composing) return;
  const box = $("text");
  const before = [box.selectionStart, box.selectionEnd].map((index) => keyBefore(index));
  shown = letters();
  const text = shown.map(([, letter]) => letter).join("");
  $("size").textContent = `${shown.length} letters`;
  if (text === box.value) return;
  box.value = text;
  if (document.activeElement === box) box.setSelectionRange(...before.map(indexAfter));
}

// The caret stays behind its letter, whatever comes before. The box counts in units of UTF-16.
const keyBefore = (index) => shown[[...$("text").value.slice(0, index)].length - 1]?.[0] ?? "";
const indexAfter = (key) => shown.filter(([each]) => each <= key).reduce((sum, [, letter]) => sum + letter.length, 0);

function edited() {
  if (composing) return;
  const now = [...$("text").value];
  const least = Math.min(now.length, shown.length);
  let start = 0, end = 0;
  while (start < least && now[start] === shown[start][1]) start++;
  while (end < least - start && now.at(-1 - end) === shown.at(-1 - end)[1]) end++;
  const edit = shown.slice(start, shown.length - end).map(([key]) => [key, null]);
  const right = shown[shown.length - end]?.[0] ?? "";
  let left = shown[start - 1]?.[0] ?? "";
  for (const letter of now.slice(start, now.length - end)) edit.push([(left = between(left, right)), letter]);
  if (!edit.length) return;
  const id = me.newId();
  outbox.set(id, edit);
  shown = letters();
  transmit(edit, id);
}

$("text").oninput = edited;
$("text").addEventListener("compositionstart", () => (composing = true));
$("text").addEventListener("compositionend", () => {
  composing = false;
  edited();
  render();
});

async function count() {
  const present = await sub.presence().catch(() => null);
  if (present) $("people").textContent = company(present, hub.client);
}

for (const event of ["subscribed", "join", "leave"]) sub.on(event, count);
