// Messages of ours that the hub has not confirmed: new, under way ("waiting") or "failed", with the reason beside it.
//
// What failed for want of a connection is sent by itself when there is one again, some times; what the hub refused
// waits for the person.

import { element } from "./render.js";

const MOST_TRIES = 3;

export class Outbox {
  constructor(log, transmit) {
    this.log = log;
    this.transmit = transmit;
    // By id, in the order of sending.
    this.entries = new Map();
  }

  get size() {
    return this.entries.size;
  }

  get(id) {
    return this.entries.get(id);
  }

  add(message) {
    const item = this.log.show({ ...message, mine: true });
    const entry = { message, item, state: "new", timer: null, tries: 0, resend: false, sentAt: 0 };
    this.entries.set(message.id, entry);
    this.transmit(entry);
  }

  underWay() {
    return [...this.entries.values()].filter(({ state }) => state === "waiting");
  }

  sendAgain() {
    for (const entry of [...this.entries.values()]) if (entry.resend) this.transmit(entry);
  }

  sending(entry) {
    this.entries.delete(entry.message.id);
    this.entries.set(entry.message.id, entry);
    this.mark(entry, "waiting");
    entry.resend = false;
    entry.tries += 1;
    entry.sentAt = Date.now();
  }

  delivered(entry) {
    this.forget(entry);
    this.mark(entry, "delivered");
    entry.item.querySelector(".body").title = `Confirmed by the hub after ${Date.now() - entry.sentAt} ms`;
  }

  // `resend` is whether the same may do the next time.
  fail(entry, why, resend) {
    entry.resend = resend && entry.tries < MOST_TRIES;
    const buttons = [this.button("Send now", () => this.retry(entry)), this.button("Discard", () => this.discard(entry))];
    this.mark(entry, "failed", why, ...buttons);
  }

  retry(entry) {
    entry.tries = 0;
    this.transmit(entry);
  }

  discard(entry) {
    this.forget(entry);
    this.log.remove(entry.item);
  }

  forget(entry) {
    clearTimeout(entry.timer);
    this.entries.delete(entry.message.id);
  }

  button(label, action) {
    return element("button", { type: "button", onclick: action }, label);
  }

  mark(entry, state, ...note) {
    clearTimeout(entry.timer);
    entry.state = state;
    for (const each of ["waiting", "failed", "delivered"]) entry.item.classList.toggle(each, each === state);
    entry.item.querySelector(".note")?.remove();
    if (note.length > 0) entry.item.append(element("div", { className: "note" }, ...note));
  }
}
