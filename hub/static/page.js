// What both pages have around their log: rooms, a name, the state of the connection, and a text box.
//
// A page gives `start` what it does by itself: {product, memory, newRoom, enter, leave, otherRoom, retry, useToken, typed,
// renamed}. Its rooms have a name, a log, an outbox, and say(message).

import { $, focusText, hide, onSubmit, setText } from "./dom.js";
import { keep, recall } from "./memory.js";
import { element } from "./render.js";
import * as view from "./view.js";

const MOST_ROOMS = 12;

// What the page does by itself; see above.
let own = null;
// The one on the screen.
export let room = null;
const rooms = new Map();

export function start(page) {
  own = page;
  $("name").value = String(recall("localStorage", "name", ""));
  rename();
  enter(roomOf(new URL(location.href)));
}

// The address of the page

const roomOf = (url) => url.searchParams.get("room") || "lobby";

function addressOf(name, path = "") {
  const url = new URL(path || location.href, location.href);
  url.searchParams.set("room", name);
  return url;
}

export function takeToken() {
  const url = new URL(location.href);
  const token = url.searchParams.get("token");
  if (token === null) return recall("sessionStorage", "token", null);
  // A secret has no business in the address bar, the history or a shared link. The window keeps it for a reload.
  url.searchParams.delete("token");
  history.replaceState(null, "", url);
  keep("sessionStorage", "token", token);
  return token;
}

// Connection state: {state, seconds, why, remedy, failures}. The remedies: "token", "lobby", "retry".

export function showState({ state, seconds, why, remedy, failures = 0 }) {
  $("state").dataset.state = state;
  const texts = { waiting: navigator.onLine ? "reconnecting" : "offline", refused: "not connected" };
  setText("state-text", texts[state] ?? state);
  // Apart, because a screen reader should not count aloud.
  setText("countdown", seconds ? `in ${seconds} s` : "");
  // The first try again is often enough; what is said of a failure stays until the next success.
  if (state === "online") {
    hide("trouble");
    view.speakSoon();
  }
  if (why && (state === "refused" || failures > 1 || !navigator.onLine)) showTrouble(why, state, remedy);
  if (remedy === "token") keep("sessionStorage", "token", null);
  if (remedy === "lobby") keepRooms(recentRooms().filter((name) => name !== room.name));
}

function showTrouble(why, state, remedy) {
  setText("why", why);
  $("retry").hidden = state !== "waiting" && remedy !== "retry";
  askForToken(remedy === "token");
  $("to-lobby").hidden = remedy !== "lobby" || room.name === "lobby";
  $("trouble").hidden = false;
}

function askForToken(asked) {
  if (asked && $("token-form").hidden && $("text").value === "") queueMicrotask(() => $("token").focus());
  $("token-form").hidden = !asked;
}

// Messages

let unread = 0;

export function shown(where, mine, notice) {
  if (where !== room) return;
  $("empty").hidden = true;
  view.shown(mine, notice);
  if (document.hidden && !mine && !notice) unread += 1;
  showTitle();
}

function showTitle() {
  document.title = `${unread > 0 ? `(${unread}) ` : ""}#${room.name} · ${own.product}`;
}

// Rooms

function recentRooms() {
  const names = recall("localStorage", own.memory, ["lobby"]);
  return Array.isArray(names) ? names.filter((name) => typeof name === "string") : ["lobby"];
}

function keepRooms(names) {
  keep("localStorage", own.memory, names);
  // By name, so that they do not move under the pointer.
  $("rooms").replaceChildren(...[...names].sort((a, b) => a.localeCompare(b)).map(roomLink));
}

function roomLink(name) {
  const link = element("a", { href: addressOf(name), dir: "auto", title: name }, name);
  if (name === room.name) link.setAttribute("aria-current", "page");
  link.onclick = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(name);
  };
  return element("li", {}, link);
}

function enter(name) {
  // While the room that is left is still the current one, because it is told.
  own.leave(room);
  room = rooms.get(name) ?? own.newRoom(name);
  rooms.set(name, room);
  $("title").textContent = $("title").title = name;
  view.beQuiet();
  $("scroll").replaceChildren(room.log.list, $("empty"));
  $("empty").hidden = !room.log.isEmpty;
  $("other").href = addressOf(own.otherRoom(name), $("other").getAttribute("href"));
  $("trouble").hidden = true;
  keepRooms([name, ...recentRooms().filter((other) => other !== name)].slice(0, MOST_ROOMS));
  view.toEnd();
  showTitle();
  own.enter(room);
}

function go(name) {
  if ($("side").matches(":popover-open")) $("side").hidePopover();
  if (name !== room.name) {
    history.pushState(null, "", addressOf(name));
    enter(name);
  }
  focusText();
}

async function copyLink() {
  const copied = await navigator.clipboard.writeText(addressOf(room.name).href).then(() => true, () => false);
  $("copy").textContent = copied ? "Copied" : "Not copied";
  setText("told", copied ? "The address of this room is copied." : "The browser does not allow to copy.");
  setTimeout(() => {
    $("copy").textContent = "Copy link";
    setText("told", "");
  }, 2000);
}

// The name

export const userName = () => $("name").value.trim() || "somebody";

function suggestName() {
  const pick = (words) => words[Math.floor(Math.random() * words.length)];
  const manner = pick(["Quiet", "Bright", "Swift", "Kind", "Merry", "Calm", "Bold", "Lucky"]);
  return `${manner} ${pick(["Otter", "Heron", "Fox", "Lynx", "Wren", "Hare", "Seal", "Finch"])}`;
}

function rename() {
  $("name").value = $("name").value.trim() || suggestName();
  keep("localStorage", "name", $("name").value);
  own.renamed?.(userName());
}

// The text box

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function submit() {
  const text = $("text").value.replace(/^\s*\n|\s+$/g, "");
  $("text").value = "";
  fit();
  if (text) room.say({ id: newId(), user: userName(), text, at: Date.now() });
  $("text").focus();
}

function keyed(event) {
  // An Enter that chooses a word of an input method is not ours; Safari says so only with 229.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  submit();
}

function fit() {
  const { style } = $("text");
  style.height = "auto";
  style.height = `${$("text").scrollHeight + 2}px`;
}

function escape() {
  if ($("side").matches(":popover-open")) return;
  if (document.activeElement === $("name")) $("name").value = recall("localStorage", "name", $("name").value);
  view.toEnd();
  $("text").focus();
}

// Events

onSubmit("compose", submit);
onSubmit("name-form", focusText);
onSubmit("room-form", () => {
  const name = $("room").value.trim();
  $("room").value = "";
  if (name) go(name);
});
onSubmit("token-form", () => {
  const token = $("token").value.trim();
  keep("sessionStorage", "token", token);
  $("token").value = "";
  own.useToken(token);
});

$("text").onkeydown = keyed;
$("text").oninput = () => {
  fit();
  own.typed?.($("text").value.trim() !== "");
};
$("name").onchange = rename;
$("retry").onclick = () => own.retry();
$("to-lobby").onclick = () => go("lobby");
$("copy").onclick = copyLink;
// Only pages from https: or localhost have it.
$("copy").hidden = navigator.clipboard === undefined;

document.addEventListener("keydown", (event) => event.key === "Escape" && escape());
// The buttons beside a message go when they have done their work.
$("scroll").onclick = ({ target }) => target.closest(".note button") && focusText();

document.addEventListener("visibilitychange", () => {
  unread = 0;
  room.log.away = document.hidden;
  showTitle();
});
addEventListener("popstate", () => enter(roomOf(new URL(location.href))));
addEventListener("beforeunload", (event) => {
  if ([...rooms.values()].some(({ outbox }) => outbox.size > 0)) event.preventDefault();
});
