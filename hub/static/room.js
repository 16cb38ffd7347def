// A room's log, and the messages of ours that the hub has not confirmed.
//
// A message of ours counts as delivered when it comes back through the hub. Until then it is in the outbox: under way
// ("waiting") or "failed", with the reason beside it. What failed for want of a connection is sent by itself when there is
// one again; what the hub refused waits for the person. A room that was left keeps its log and its outbox.

import { sentence } from "./connection.js";
import { rawFrame } from "./frames.js";
import { clock, dayOf, element, messageItem, noticeItem } from "./render.js";

const GROUP_WITHIN = 5 * 60 * 1000;
const DELIVERY_TIMEOUT = 10000;
const MOST_MESSAGES = 500;
const MOST_TRIES = 3;

const LOST = "Not confirmed: the connection was lost.";
// To send these again by itself would end the next connection in the same way.
const REFUSED_WITH = { 1009: "Not sent: too big for this hub.", 4429: "Not sent: too many messages at once." };

export class Room {
  constructor(name, { connection, onShown }) {
    this.name = name;
    this.connection = connection;
    this.onShown = onShown;
    this.list = element("ol", { className: "log" });
    // By id, in the order of sending.
    this.outbox = new Map();
    // A message that was sent twice around a reconnect may have arrived the first time.
    this.seen = new Set();
    // The latest message, for grouping; null after a notice.
    this.last = null;
    this.day = dayOf(Date.now());
    // When it was last left or lost; null before the first time and while we are in it.
    this.awaySince = null;
  }

  // Connection

  joined() {
    if (this.awaySince !== null && this.list.childElementCount > 0) this.noticeGap();
    this.awaySince = null;
    for (const entry of [...this.outbox.values()]) if (entry.resend) this.transmit(entry);
  }

  lost(code) {
    this.awaySince = Date.now();
    const why = REFUSED_WITH[code];
    for (const entry of this.underWay()) this.fail(entry, why ?? LOST, why === undefined && entry.tries < MOST_TRIES);
  }

  noticeGap() {
    const [from, to] = [clock(this.awaySince), clock(Date.now())];
    this.notice(`Not connected ${from === to ? `at ${to}` : `from ${from} to ${to}`}: what others said meanwhile is not shown.`);
  }

  // Sending

  say(message) {
    const item = this.show({ ...message, mine: true });
    const entry = { message, item, state: "new", timer: null, tries: 0, resend: false, sentAt: 0 };
    this.outbox.set(message.id, entry);
    this.transmit(entry);
  }

  transmit(entry) {
    if (!this.connection.online) {
      this.fail(entry, "Not sent yet: no connection.", true);
      this.connection.retryNow();
      return;
    }
    this.outbox.delete(entry.message.id);
    this.outbox.set(entry.message.id, entry);
    this.mark(entry, "waiting");
    entry.tries += 1;
    entry.sentAt = Date.now();
    entry.timer = setTimeout(() => this.overdue(entry), DELIVERY_TIMEOUT);
    this.connection.send(JSON.stringify(entry.message));
  }

  overdue(entry) {
    this.fail(entry, "No answer from the hub.", entry.tries < MOST_TRIES);
    if (this.connection.heardAt < entry.sentAt) this.connection.giveUp();
  }

  fail(entry, why, resend) {
    entry.resend = resend;
    this.mark(entry, "failed", why, this.button("Send now", () => this.retry(entry)), this.button("Discard", () => this.discard(entry)));
  }

  retry(entry) {
    entry.tries = 0;
    this.transmit(entry);
  }

  discard(entry) {
    this.forget(entry);
    entry.item.remove();
    this.last = null;
  }

  forget(entry) {
    clearTimeout(entry.timer);
    this.outbox.delete(entry.message.id);
  }

  underWay() {
    return [...this.outbox.values()].filter(({ state }) => state === "waiting");
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

  // Receiving

  receive(frame) {
    if (frame.kind === "message") this.receiveMessage(frame);
    else if (frame.kind === "error") this.receiveError(frame);
    // Only the first frame can be the hub's greeting; a later one is somebody's message.
    else this.show({ ...(frame.kind === "hello" ? rawFrame(frame.data) : frame), at: Date.now(), raw: true });
  }

  receiveMessage(frame) {
    const entry = this.outbox.get(frame.id);
    if (entry !== undefined) this.delivered(entry);
    else if (this.isNew(frame.id)) this.show(frame);
  }

  delivered(entry) {
    this.forget(entry);
    this.isNew(entry.message.id);
    this.mark(entry, "delivered");
    entry.item.querySelector(".body").title = `Back from the hub after ${Date.now() - entry.sentAt} ms`;
  }

  isNew(id) {
    if (id === null) return true;
    const fresh = !this.seen.has(id);
    this.seen.add(id);
    if (this.seen.size > 2 * MOST_MESSAGES) this.seen.delete(this.seen.values().next().value);
    return fresh;
  }

  receiveError({ why, data }) {
    // Answers come in the order of sending, so it is about the oldest.
    const [entry] = this.underWay();
    if (entry === undefined) this.show({ ...rawFrame(data), at: Date.now(), raw: true });
    else this.fail(entry, `Not delivered: ${sentence(why)}`, false);
  }

  // The log

  show(message) {
    const { user, at, mine = false, raw = false } = message;
    this.turnDay(at);
    const { last } = this;
    const more = last !== null && last.user === user && last.mine === mine && last.raw === raw && at - last.at < GROUP_WITHIN;
    this.last = { user, mine, raw, at };
    return this.append(messageItem({ ...message, more }), mine);
  }

  notice(text) {
    this.last = null;
    this.append(noticeItem(text), false);
  }

  turnDay(at) {
    const day = dayOf(at);
    if (day !== this.day) this.notice(day);
    this.day = day;
  }

  append(item, mine) {
    this.list.append(item);
    // What is not delivered stays.
    while (this.list.childElementCount > MOST_MESSAGES) (this.list.querySelector("li:not(.waiting, .failed)") ?? item).remove();
    this.onShown(this, mine, item.classList.contains("notice"));
    return item;
  }
}
