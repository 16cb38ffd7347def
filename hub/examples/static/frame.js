// What the pages of the examples have in common: the connection with its state in the header, and a few helpers.

import { Hub } from "./hub.js";

export const $ = (id) => document.getElementById(id);

/** An element; `text` of others is only ever text. */
export function el(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const random = (count) => Array.from(crypto.getRandomValues(new Uint8Array(count)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// This window, as long as it is open.
const secret = sessionStorage.getItem("hub.example") ?? random(16);
sessionStorage.setItem("hub.example", secret);

const KINDS = ["Quick", "Calm", "Bold", "Shy", "Merry", "Wise", "Swift", "Kind", "Brave", "Sunny", "Proud", "Gentle"];
const BEASTS = ["Otter", "Heron", "Lynx", "Finch", "Badger", "Newt", "Robin", "Stoat", "Crane", "Hare", "Wren", "Mole", "Seal", "Fox"];

/** A name and a hue for an id: the same on every page. */
export function persona(id) {
  let hash = 7;
  for (const char of String(id)) hash = (Math.imul(hash, 31) + char.charCodeAt(0)) >>> 0;
  return { id, name: `${KINDS[hash % 12]} ${BEASTS[(hash >>> 4) % 14]}`, hue: (hash >>> 8) % 360 };
}

export const me = { ...persona(secret.slice(0, 8)), secret, newId: () => random(8) };

/** Who is present, in words. */
export function company(present, client) {
  const others = Object.keys(present).filter((each) => each !== client).length;
  return others ? `you and ${others} other${others > 1 ? "s" : ""}` : "only you";
}

/** The hub of this page. Its state, and which worker serves it, are in the header. */
export function connect(options) {
  const hub = new Hub("rt/connection/websocket", options);
  const show = (state, text) => {
    $("state").dataset.state = state;
    $("state").textContent = text;
  };
  hub.on("connecting", () => show("connecting", "connecting"));
  hub.on("disconnected", ({ reason }) => show("refused", reason));
  hub.on("connected", async ({ client }) => {
    show("online", "online");
    // In the gallery the hub tells; an example that runs alone need not.
    const worker = await hub.rpc("worker").catch(() => null);
    if (worker && hub.client === client) show("online", `worker ${worker.slice(0, 4)}`);
  });
  hub.connect();
  globalThis.hub = hub; // for the curious: it is there in the console
  return hub;
}

/** Give `draw` all that is kept in a channel and then what comes; `clear` before it begins anew, `current` when it is up to date. */
export function follow(sub, { draw, clear = () => {}, current = () => {} }) {
  let waiting = []; // while the history is read; null when all that comes may be drawn
  sub.on("publication", (publication) => (waiting ? waiting.push(publication) : draw(publication)));
  sub.on("subscribed", async ({ recovered }) => {
    if (recovered && !waiting) return queueMicrotask(current); // what was missed follows at once
    waiting ??= [];
    const history = await sub.history().catch(() => null);
    if (!history || !waiting) return; // interrupted again: there will be another "subscribed"
    const late = waiting.filter(({ offset }) => offset > history.offset);
    waiting = null;
    clear();
    [...history.publications, ...late].forEach(draw);
    current();
  });
}

/** At most one call in so many milliseconds, and the last one always. */
export function throttle(pause, act) {
  let timer, next;
  return (...values) => {
    next = values;
    timer ??= setTimeout(() => {
      timer = undefined;
      act(...next);
    }, pause);
  };
}
