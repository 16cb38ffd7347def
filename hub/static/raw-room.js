// A room of the raw page: what comes is shown, and a message of ours counts as delivered when it comes back through
// the hub. A room that was left keeps its log and its outbox.

import { rawFrame } from "./frames.js";
import { Log } from "./log.js";
import { Seen } from "./memory.js";
import { Outbox } from "./outbox.js";
import { clock } from "./render.js";
import { sentence } from "./words.js";

const DELIVERY_TIMEOUT = 10000;

const LOST = "Not confirmed: the connection was lost.";
// To send these again by itself would end the next connection in the same way.
const REFUSED_WITH = { 1009: "Not sent: too big for this hub.", 4429: "Not sent: too many messages at once." };

export class RawRoom {
  constructor(name, { connection, onShown }) {
    this.name = name;
    this.connection = connection;
    this.log = new Log((mine, notice) => onShown(this, mine, notice));
    this.outbox = new Outbox(this.log, (entry) => this.transmit(entry));
    this.seen = new Seen();
    // When it was last left or lost; null before the first time and while we are in it.
    this.awaySince = null;
  }

  say(message) {
    this.outbox.add(message);
  }

  // Connection

  joined() {
    if (this.awaySince !== null && !this.log.isEmpty) this.noticeGap();
    this.awaySince = null;
    this.outbox.sendAgain();
  }

  lost(code) {
    this.awaySince = Date.now();
    const why = REFUSED_WITH[code];
    for (const entry of this.outbox.underWay()) this.outbox.fail(entry, why ?? LOST, why === undefined);
  }

  noticeGap() {
    const [from, to] = [clock(this.awaySince), clock(Date.now())];
    this.log.notice(`Not connected ${from === to ? `at ${to}` : `from ${from} to ${to}`}: what others said meanwhile is not shown.`);
  }

  // Sending

  transmit(entry) {
    if (!this.connection.online) {
      this.outbox.fail(entry, "Not sent yet: no connection.", true);
      this.connection.retryNow();
      return;
    }
    this.outbox.sending(entry);
    entry.timer = setTimeout(() => this.overdue(entry), DELIVERY_TIMEOUT);
    this.connection.send(JSON.stringify(entry.message));
  }

  overdue(entry) {
    this.outbox.fail(entry, "No answer from the hub.", true);
    if (this.connection.heardAt < entry.sentAt) this.connection.giveUp();
  }

  // Receiving

  receive(frame) {
    if (frame.kind === "message") this.receiveMessage(frame);
    else if (frame.kind === "error") this.receiveError(frame);
    // Only the first frame can be the hub's greeting; a later one is somebody's message.
    else this.showRaw(frame.kind === "hello" ? rawFrame(frame.data) : frame);
  }

  receiveMessage(frame) {
    const entry = this.outbox.get(frame.id);
    const fresh = this.seen.isNew(frame.id);
    if (entry !== undefined) this.outbox.delivered(entry);
    else if (fresh) this.log.show(frame);
  }

  receiveError({ why, data }) {
    // Answers come in the order of sending, so it is about the oldest.
    const [entry] = this.outbox.underWay();
    if (entry === undefined) this.showRaw(rawFrame(data));
    else this.outbox.fail(entry, `Not delivered: ${sentence(why)}`, false);
  }

  showRaw(frame) {
    this.log.show({ ...frame, at: Date.now(), raw: true });
  }
}
