// How the connection and the room on the screen fare, in the page's words (see page.js).

import { sentence, whyClosed } from "./words.js";

const MISSING_TOKEN = "This hub asks for a token.";
// Where the same attempt will fare the same, until somebody does something about it.
const REFUSALS = {
  4: { why: MISSING_TOKEN, remedy: "token" },
  109: { why: "The token has expired.", remedy: "token" },
  3500: { why: "This hub asks for a valid token.", remedy: "token" },
};
const NOT_ALLOWED = { why: "This room name is not allowed.", remedy: "lobby" };
const CLOSED_ROOMS = {
  102: { why: "This hub has no chat rooms: there is no namespace “chat”.", remedy: "retry" },
  103: { why: "You may not enter this room.", remedy: "lobby" },
  107: NOT_ALLOWED,
};
// How a hub answers a connection without a token that it wants.
const BAD_REQUEST = 3501;

export class Status {
  constructor(hub, onState) {
    this.hub = hub;
    this.onState = onState;
    // The room's.
    this.channel = null;
    // Of the countdown.
    this.timer = null;
    hub.on("connecting", (context) => this.connecting(context));
    hub.on("connected", () => this.tell({ state: "connecting" }));
    hub.on("disconnected", ({ code, reason }) => this.ended(code, reason));
    this.on("subscribed", () => this.tell({ state: "online" }));
    this.on("subscribing", () => this.subscribing());
    this.on("unsubscribed", ({ code, reason }) => this.shut(code, reason));
    this.on("error", ({ error }) => this.tell({ state: "connecting", why: sentence(error.message), failures: 2 }));
  }

  enter(channel) {
    this.channel = channel;
    this.subscribing();
  }

  on(event, handler) {
    this.hub.on(event, (context) => context.channel === this.channel && handler(context));
  }

  subscribing() {
    if (this.hub.state === "connected") this.tell({ state: "connecting" });
  }

  connecting({ delay, code, reason, attempt }) {
    if (delay === 0) this.tell({ state: "connecting" });
    else this.count(whyClosed(code, reason), attempt, Date.now() + delay);
  }

  count(why, failures, until) {
    const left = until - Date.now();
    if (left <= 0) return;
    this.tell({ state: "waiting", seconds: Math.ceil(left / 1000), why, failures });
    this.timer = setTimeout(() => this.count(why, failures, until), Math.min(left, 1000));
  }

  ended(code, reason) {
    if (code === 0) return;
    const noToken = code === BAD_REQUEST && !this.hub.token;
    const refusal = noToken ? { why: MISSING_TOKEN, remedy: "token" } : REFUSALS[code];
    this.tell({ state: "refused", ...(refusal ?? { why: sentence(reason), remedy: "retry" }) });
  }

  // The room, by the hub; otherwise we left.
  shut(code, reason) {
    if (code > 0) this.tell({ state: "refused", ...(CLOSED_ROOMS[code] ?? { why: sentence(reason), remedy: "lobby" }) });
  }

  tell(state) {
    clearTimeout(this.timer);
    this.onState(state);
  }
}
