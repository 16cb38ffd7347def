// The socket of one room, and how it comes back.
//
// Online begins with the hub's first frame and not with the open handshake: a browser learns the reason of a refusal
// only from an open connection, so the hub accepts even those that it is about to refuse.

import { whyClosed } from "./words.js";

const FIRST_DELAY = 500;
const LONGEST_DELAY = 20000;
// A connection that held this long starts the delays afresh; one that is accepted and closed at once does not.
const STABLE_AFTER = 5000;
const JOIN_TIMEOUT = 15000;

// The hub would refuse the same attempt again.
const TERMINAL = { 4400: "This room name is not allowed.", 4401: "This hub asks for a token.", 4403: "This page may not connect." };
// Nor would whoever threw this user out have it back (see hub.js).
const isTerminal = (code) => code in TERMINAL || (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);
const REMEDIES = { 4400: "lobby", 4401: "token" };

export class Connection {
  constructor({ address, onState, onFrame, onLost }) {
    Object.assign(this, { address, onState, onFrame, onLost });
    this.room = null;
    // While there is one, joined or not.
    this.socket = null;
    // The hub's first frame has come.
    this.online = false;
    this.refused = false;
    // In a row; each doubles the delay.
    this.failures = 0;
    // Of the attempt, the wait or the proof of stability: one at a time.
    this.timer = null;
    this.heardAt = 0;
    addEventListener("online", () => this.retryNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.retryNow());
  }

  open(room) {
    this.leave();
    this.room = room;
    this.failures = 0;
    this.refused = false;
    this.connect();
  }

  leave() {
    const wasOnline = this.online;
    this.release();
    if (wasOnline) this.onLost(1000);
  }

  retryNow() {
    if (this.room !== null && !this.online && !this.refused) this.connect();
  }

  send(data) {
    this.socket.send(data);
  }

  // For a socket that is open and yet dead, as after a change of networks.
  giveUp() {
    this.closed(1006, "");
  }

  connect() {
    this.release();
    // Addresses have no such segments: they are steps between folders.
    if (this.room === "." || this.room === "..") return this.closed(4400, "");
    this.onState({ state: "connecting" });
    this.socket = new WebSocket(this.address(this.room));
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => this.received(data);
    this.socket.onclose = ({ code, reason }) => this.closed(code, reason);
    this.timer = setTimeout(() => this.giveUp(), JOIN_TIMEOUT);
  }

  release() {
    clearTimeout(this.timer);
    this.online = false;
    if (this.socket === null) return;
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close(1000);
    this.socket = null;
  }

  received(data) {
    const first = !this.online;
    this.heardAt = Date.now();
    if (first) this.joined();
    this.onFrame(data, first);
  }

  joined() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.failures = 0), STABLE_AFTER);
    this.online = true;
    this.onState({ state: "online" });
  }

  closed(code, reason) {
    const wasOnline = this.online;
    this.release();
    if (wasOnline) this.onLost(code);
    this.refused = isTerminal(code);
    const why = TERMINAL[code] ?? whyClosed(code, reason);
    if (this.refused) this.onState({ state: "refused", why, remedy: REMEDIES[code] });
    else this.wait(why);
  }

  wait(why) {
    // Full jitter: a thousand windows that lost the same worker must not come back in step.
    const delay = Math.random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.failures);
    this.failures += 1;
    this.count(why, Date.now() + delay);
  }

  count(why, until) {
    const left = until - Date.now();
    if (left <= 0) return this.connect();
    this.onState({ state: "waiting", seconds: Math.ceil(left / 1000), why, failures: this.failures });
    this.timer = setTimeout(() => this.count(why, until), Math.min(left, 1000));
  }
}
