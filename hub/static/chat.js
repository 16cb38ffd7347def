// The chat page: one WebSocket, no library.
//
// A message is JSON text {id, user, text, at}. Our own counts as delivered when it comes back through the hub, so what
// the page shows as sent has been through Redis. Whatever else arrives in a room is shown as it is.

const $ = (id) => document.getElementById(id);

// Codes after which the same attempt would be refused again.
const TERMINAL = { 4400: "This room name is not allowed", 4401: "The token is missing or not valid" };
const FIRST_DELAY = 500;
const LONGEST_DELAY = 20000;
const GROUP_WITHIN = 5 * 60 * 1000;
const DELIVERY_TIMEOUT = 10000;
const MOST_MESSAGES = 500;

const here = new URL(location.href);
const token = here.searchParams.get("token");
if (token !== null) {
  // A secret has no business in the address bar, the history or a shared link.
  here.searchParams.delete("token");
  history.replaceState(null, "", here);
}

const store = {
  read(key, fallback) {
    try {
      return JSON.parse(localStorage.getItem(`hub.${key}`)) ?? fallback;
    } catch {
      return fallback;
    }
  },
  write(key, value) {
    try {
      localStorage.setItem(`hub.${key}`, JSON.stringify(value));
    } catch {
      // Private windows may refuse; the page works without.
    }
  },
};

// The connection

class Connection {
  constructor({ onState, onMessage }) {
    this.onState = onState;
    this.onMessage = onMessage;
    this.socket = null;
    this.attempts = 0;
    this.timer = null;
    addEventListener("online", () => this.retryNow());
  }

  open(room) {
    clearTimeout(this.timer);
    this.room = room;
    const last = this.socket;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const path = `${document.documentElement.dataset.ws}/${encodeURIComponent(room)}`;
    const query = new URLSearchParams({ hello: "1", ...(token === null ? {} : { token }) });
    this.onState("connecting", "connecting");
    const socket = new WebSocket(`${scheme}//${location.host}${path}?${query}`);
    this.socket = socket;
    last?.close(1000);
    socket.onopen = () => {
      if (socket !== this.socket) return;
      this.attempts = 0;
      this.onState("online", "online");
    };
    socket.onmessage = (event) => socket === this.socket && this.onMessage(event.data);
    socket.onclose = (event) => socket === this.socket && this.closed(event);
  }

  closed(event) {
    this.socket = null;
    if (event.code in TERMINAL) {
      this.onState("refused", TERMINAL[event.code]);
      return;
    }
    // Full jitter: a thousand windows that lost the same worker must not come back in step.
    const ceiling = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.attempts);
    this.attempts += 1;
    this.retryAt = Date.now() + Math.random() * ceiling;
    this.countdown(event.reason);
  }

  countdown(reason) {
    const left = this.retryAt - Date.now();
    if (left <= 0) {
      this.open(this.room);
      return;
    }
    const seconds = Math.ceil(left / 1000);
    this.onState("waiting", `${reason ? `${reason}; ` : ""}reconnecting in ${seconds} s`);
    this.timer = setTimeout(() => this.countdown(reason), Math.min(left, 1000));
  }

  retryNow() {
    if (this.socket === null && this.room !== undefined) {
      clearTimeout(this.timer);
      this.open(this.room);
    }
  }

  get online() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  send(data) {
    this.socket.send(data);
  }
}

// The log

const pending = new Map();
// Ids of what was shown: a message sent again after a reconnect may have arrived the first time.
const seen = new Set();
let lastShown = null;

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function nearEnd() {
  const box = $("scroll");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 80;
}

function toEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
  $("newer").hidden = true;
}

function show({ user, text, at, mine = false, raw = false }) {
  const follow = mine || nearEnd();
  const when = new Date(at);
  const time = element("time", { dateTime: when.toISOString(), title: when.toLocaleString() });
  time.append(when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  const who = element("div", { className: "who" }, element("b", {}, user), time);
  const item = element("li", { className: "message" }, who, element("div", { className: "body", dir: "auto" }, text));
  item.classList.toggle("mine", mine);
  item.classList.toggle("raw", raw);
  const together = lastShown && lastShown.user === user && lastShown.mine === mine && at - lastShown.at < GROUP_WITHIN;
  item.classList.toggle("more", Boolean(together));
  lastShown = { user, mine, at };
  $("log").append(item);
  while ($("log").childElementCount > MOST_MESSAGES) $("log").firstElementChild.remove();
  $("empty").hidden = true;
  if (follow) toEnd();
  else $("newer").hidden = false;
  return item;
}

function clearLog() {
  for (const { timer } of pending.values()) clearTimeout(timer);
  pending.clear();
  lastShown = null;
  $("log").replaceChildren();
  $("empty").hidden = false;
  $("newer").hidden = true;
}

// Sending

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function say(text) {
  const message = { id: newId(), user: $("name").value.trim() || "somebody", text, at: Date.now() };
  const entry = { message, item: show({ ...message, mine: true }), timer: null };
  pending.set(message.id, entry);
  transmit(entry);
}

function transmit(entry) {
  mark(entry, "waiting", "");
  if (!connection.online) {
    fail(entry, "Not sent: no connection.");
    return;
  }
  connection.send(JSON.stringify(entry.message));
  clearTimeout(entry.timer);
  entry.timer = setTimeout(() => fail(entry, "No answer from the hub."), DELIVERY_TIMEOUT);
}

function fail(entry, why) {
  clearTimeout(entry.timer);
  const retry = element("button", { type: "button", onclick: () => transmit(entry) }, "Send again");
  mark(entry, "failed", `${why} `, retry);
}

function mark(entry, state, ...note) {
  entry.item.classList.toggle("waiting", state === "waiting");
  entry.item.classList.toggle("failed", state === "failed");
  entry.item.querySelector(".note")?.remove();
  if (note.join("")) entry.item.append(element("div", { className: "note" }, ...note));
}

// Receiving

function parse(data) {
  try {
    const value = JSON.parse(data);
    return value !== null && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}

function receive(data) {
  if (typeof data !== "string") {
    show({ user: "binary message", text: `${data.size} bytes`, at: Date.now(), raw: true });
    return;
  }
  const value = parse(data);
  if (value.hub) receiveFromHub(value.hub);
  else if (typeof value.text === "string" && typeof value.user === "string") receiveMessage(value);
  else show({ user: "raw message", text: data, at: Date.now(), raw: true });
}

function receiveMessage({ id, user, text, at }) {
  const entry = pending.get(id);
  if (entry !== undefined) {
    clearTimeout(entry.timer);
    pending.delete(id);
    seen.add(id);
    mark(entry, "delivered");
    return;
  }
  if (typeof id === "string") {
    if (seen.has(id)) return;
    seen.add(id);
    if (seen.size > 2 * MOST_MESSAGES) seen.delete(seen.values().next().value);
  }
  show({ user: user.slice(0, 80) || "somebody", text, at: Number.isFinite(at) && at < 8e15 && at > 0 ? at : Date.now() });
}

function receiveFromHub({ hello, error }) {
  if (hello) {
    $("worker").textContent = `worker ${hello.worker} · node ${String(hello.node).slice(0, 6)}`;
    $("worker").dataset.worker = hello.worker;
  }
  if (error) {
    // The hub answers in order: the oldest that waits is the one.
    const entry = [...pending.values()].find(({ item }) => item.classList.contains("waiting"));
    if (entry) fail(entry, `Not delivered: ${error.message}.`);
  }
}

// Rooms

const connection = new Connection({
  onState(state, text) {
    $("state").dataset.state = state;
    if ($("state-text").textContent !== text) $("state-text").textContent = text;
    if (state !== "online") $("worker").textContent = "";
    if (state === "online") for (const entry of pending.values()) transmit(entry);
  },
  onMessage: receive,
});

const roomOf = (url) => url.searchParams.get("room") || "lobby";

function addressOf(room) {
  const url = new URL(location.href);
  url.searchParams.set("room", room);
  return url;
}

function enter(room) {
  document.title = `#${room} · hub chat`;
  $("title").textContent = room;
  const rooms = [room, ...store.read("rooms", ["lobby"]).filter((other) => other !== room)].slice(0, 12);
  store.write("rooms", rooms);
  $("rooms").replaceChildren(...[...rooms].sort().map((name) => roomLink(name, room)));
  clearLog();
  connection.attempts = 0;
  connection.open(room);
}

function roomLink(name, current) {
  const link = element("a", { href: addressOf(name) }, name);
  if (name === current) link.setAttribute("aria-current", "page");
  link.onclick = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(name);
  };
  return element("li", {}, link);
}

function go(room) {
  history.pushState(null, "", addressOf(room));
  enter(room);
  $("text").focus();
}

// The page

function fit() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

function suggestName() {
  const pick = (words) => words[Math.floor(Math.random() * words.length)];
  const manner = pick(["Quiet", "Bright", "Swift", "Kind", "Merry", "Calm", "Bold", "Lucky"]);
  return `${manner} ${pick(["Otter", "Heron", "Fox", "Lynx", "Wren", "Hare", "Seal", "Finch"])}`;
}

$("name").value = store.read("name", "") || suggestName();
store.write("name", $("name").value);
$("name").onchange = () => store.write("name", $("name").value.trim());
$("name").onkeydown = (event) => event.key === "Enter" && $("text").focus();

$("room-form").onsubmit = (event) => {
  event.preventDefault();
  const room = $("room").value.trim();
  $("room").value = "";
  if (room) go(room);
};

$("compose").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  $("text").value = "";
  fit();
  if (text) say(text);
  $("text").focus();
};

$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("compose").requestSubmit();
  } else if (event.key === "Escape") {
    $("text").value = "";
    fit();
  }
};
$("text").oninput = fit;
$("newer").onclick = toEnd;
$("scroll").onscroll = () => nearEnd() && ($("newer").hidden = true);
onpopstate = () => enter(roomOf(new URL(location.href)));

enter(roomOf(here));
