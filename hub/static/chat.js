// The chat page: rooms, a name, a log and a text box around one WebSocket. No library.

import { Connection } from "./connection.js";
import { readFrame } from "./frames.js";
import { element } from "./render.js";
import { Room } from "./room.js";

const MOST_ROOMS = 12;
const NEAR_END = 80;

const $ = (id) => document.getElementById(id);

// Storage: private windows may refuse it, and the page works without.

function recall(storage, key, fallback) {
  try {
    return JSON.parse(window[storage].getItem(`hub.${key}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

function keep(storage, key, value) {
  try {
    window[storage].setItem(`hub.${key}`, JSON.stringify(value));
  } catch {
    // See above.
  }
}

// The address of the page

const roomOf = (url) => url.searchParams.get("room") || "lobby";

function addressOf(room) {
  const url = new URL(location.href);
  url.searchParams.set("room", room);
  return url;
}

function takeToken() {
  const url = new URL(location.href);
  const token = url.searchParams.get("token");
  if (token === null) return recall("sessionStorage", "token", null);
  // A secret has no business in the address bar, the history or a shared link. The window keeps it for a reload.
  url.searchParams.delete("token");
  history.replaceState(null, "", url);
  keep("sessionStorage", "token", token);
  return token;
}

let token = takeToken();

function socketAddress(room) {
  const url = new URL(`${document.documentElement.dataset.ws}/${encodeURIComponent(room)}`, document.baseURI);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.search = new URLSearchParams({ hello: "1", ...(token ? { token } : {}) });
  return url;
}

// Connection state

function showState({ state, seconds, code, why, failures }) {
  $("state").dataset.state = state;
  const texts = { waiting: navigator.onLine ? "reconnecting" : "offline", refused: "not connected" };
  setText("state-text", texts[state] ?? state);
  // Apart, because a screen reader should not count aloud.
  setText("countdown", seconds ? `in ${seconds} s` : "");
  if (state !== "online") $("worker").textContent = "";
  // The first try again is often enough; what is said of a failure stays until the next success.
  if (state === "online") $("trouble").hidden = true;
  if (why && (state === "refused" || failures > 1 || !navigator.onLine)) showTrouble(why, state, code);
  if (state === "refused") forgetRefused(code);
}

function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function showTrouble(why, state, code) {
  setText("why", why);
  $("retry").hidden = state !== "waiting";
  $("token-form").hidden = code !== 4401;
  $("to-lobby").hidden = code !== 4400;
  $("trouble").hidden = false;
}

function forgetRefused(code) {
  if (code === 4401) keep("sessionStorage", "token", null);
  if (code === 4400) keepRooms(recentRooms().filter((name) => name !== room.name));
}

function showWorker({ node, worker }) {
  $("worker").textContent = `worker ${worker} · node ${String(node).slice(0, 6)}`;
}

// The log

let following = true;
let scrolling = false;
let lastTop = 0;
let unread = 0;

function shown(where, mine, notice) {
  if (where !== room) return;
  $("empty").hidden = true;
  if (mine) following = true;
  if (following) follow();
  else if (!notice) $("newer").hidden = false;
  if (document.hidden && !mine && !notice) unread += 1;
  showTitle();
}

// Once a frame: a flood of messages must not lay out the page for each.
function follow() {
  if (scrolling) return;
  scrolling = true;
  requestAnimationFrame(() => {
    scrolling = false;
    if (following) toEnd();
  });
}

function toEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
  $("newer").hidden = true;
  following = true;
}

function scrolled() {
  const box = $("scroll");
  const near = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END;
  // The event comes late: messages that arrived meanwhile are not a reader who scrolled up.
  following = near || (following && box.scrollTop >= lastTop);
  lastTop = box.scrollTop;
  if (following) $("newer").hidden = true;
}

function showTitle() {
  document.title = `${unread > 0 ? `(${unread}) ` : ""}#${room.name} · hub chat`;
}

// Rooms

const rooms = new Map();
let room = null;

const connection = new Connection({
  address: socketAddress,
  onState(state) {
    showState(state);
    if (state.state === "online") room.joined();
  },
  onFrame(data, first) {
    const frame = readFrame(data);
    if (first && frame.kind === "hello") showWorker(frame);
    else room.receive(frame);
  },
  onLost: (code) => room.lost(code),
});

function recentRooms() {
  const names = recall("localStorage", "rooms", ["lobby"]);
  return Array.isArray(names) ? names.filter((name) => typeof name === "string") : ["lobby"];
}

function keepRooms(names) {
  keep("localStorage", "rooms", names);
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
  connection.leave();
  room = rooms.get(name) ?? new Room(name, { connection, onShown: shown });
  rooms.set(name, room);
  $("title").textContent = $("title").title = name;
  $("scroll").replaceChildren(room.list, $("empty"));
  $("empty").hidden = room.list.childElementCount > 0;
  $("trouble").hidden = true;
  keepRooms([name, ...recentRooms().filter((other) => other !== name)].slice(0, MOST_ROOMS));
  toEnd();
  showTitle();
  connection.open(name);
}

function go(name) {
  if ($("side").matches(":popover-open")) $("side").hidePopover();
  if (name !== room.name) {
    history.pushState(null, "", addressOf(name));
    enter(name);
  }
  focusText();
}

// On a touch screen the focus brings up the keyboard, over half of the page.
function focusText() {
  if (matchMedia("(hover: hover)").matches) $("text").focus();
}

async function copyLink() {
  await navigator.clipboard.writeText(addressOf(room.name).href);
  $("copy").textContent = "Copied";
  setText("told", "The address of this room is copied.");
  setTimeout(() => {
    $("copy").textContent = "Copy link";
    setText("told", "");
  }, 2000);
}

// The name

function suggestName() {
  const pick = (words) => words[Math.floor(Math.random() * words.length)];
  const manner = pick(["Quiet", "Bright", "Swift", "Kind", "Merry", "Calm", "Bold", "Lucky"]);
  return `${manner} ${pick(["Otter", "Heron", "Fox", "Lynx", "Wren", "Hare", "Seal", "Finch"])}`;
}

function rename() {
  $("name").value = $("name").value.trim() || suggestName();
  keep("localStorage", "name", $("name").value);
}

// The text box

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function submit() {
  const text = $("text").value.replace(/^\s*\n|\s+$/g, "");
  $("text").value = "";
  fit();
  if (text) room.say({ id: newId(), user: $("name").value.trim() || "somebody", text, at: Date.now() });
  $("text").focus();
}

function typed(event) {
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
  toEnd();
  $("text").focus();
}

// Events

function onSubmit(id, action) {
  $(id).onsubmit = (event) => {
    event.preventDefault();
    action();
  };
}

onSubmit("compose", submit);
onSubmit("name-form", focusText);
onSubmit("room-form", () => {
  const name = $("room").value.trim();
  $("room").value = "";
  if (name) go(name);
});
onSubmit("token-form", () => {
  token = $("token").value.trim();
  keep("sessionStorage", "token", token);
  $("token").value = "";
  connection.open(room.name);
});

$("text").onkeydown = typed;
$("text").oninput = fit;
$("name").onchange = rename;
$("newer").onclick = toEnd;
$("scroll").onscroll = scrolled;
$("retry").onclick = () => connection.retryNow();
$("to-lobby").onclick = () => go("lobby");
$("copy").onclick = copyLink;
// Only pages from https: or localhost have it.
$("copy").hidden = navigator.clipboard === undefined;

document.addEventListener("keydown", (event) => event.key === "Escape" && escape());
document.addEventListener("visibilitychange", () => {
  unread = 0;
  showTitle();
});
addEventListener("popstate", () => enter(roomOf(new URL(location.href))));
addEventListener("beforeunload", (event) => {
  if ([...rooms.values()].some(({ outbox }) => outbox.size > 0)) event.preventDefault();
});
// The text box grows, the keyboard of a phone comes up: the newest message stays in sight.
new ResizeObserver(() => following && toEnd()).observe($("scroll"));

$("name").value = String(recall("localStorage", "name", ""));
rename();
enter(roomOf(new URL(location.href)));
