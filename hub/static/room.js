// A room of the chat page: the channel `chat:<name>`, with what was said before, and who is there.
//
// After an interruption hub.js brings what was missed. Where it cannot (the first time, or away for too long), the room
// reads the history; what comes meanwhile is held back, so that all is shown once and in order.

import { readData } from "./frames.js";
import { Log } from "./log.js";
import { keep, recall, Seen } from "./memory.js";
import { Outbox } from "./outbox.js";
import { People } from "./people.js";
import { sentence } from "./words.js";

const MOST_SENT = 200;

// What HubError.code says.
const LOST = 2;
// To send these again by itself would end the next connection in the same way.
const REFUSED_WITH = { 1009: "Not sent: too big for this hub.", 3013: "Not sent: too many messages at once." };
const REASONS = { 1: "No answer from the hub.", [LOST]: "Not confirmed: the connection was lost.", 3: "Not sent yet: no connection." };

// Ids of messages of this window: after a reload they are still ours.
const sent = recall("sessionStorage", "sent", []);

export class Room {
  constructor(name, { hub, userName, onShown, onPeople }) {
    this.name = name;
    this.channel = `chat:${name}`;
    this.hub = hub;
    this.log = new Log((mine, notice) => onShown(this, mine, notice));
    this.outbox = new Outbox(this.log, (entry) => this.transmit(entry));
    this.people = new People({ hub, room: name, userName, onChange: () => onPeople(this) });
    this.seen = new Seen();
    // The subscription; null until the room is entered.
    this.chat = null;
    // Of the latest publication that was shown; epoch null before the history was read.
    this.offset = 0;
    this.epoch = null;
    // Publications that wait for the history; null if there is nothing to wait for.
    this.held = [];
  }

  enter() {
    if (this.chat !== null) this.chat.subscribe();
    else this.begin();
    this.people.enter();
  }

  leave() {
    this.log.away = true;
    this.people.leave();
    this.chat.unsubscribe();
  }

  begin() {
    this.chat = this.hub.subscribe(this.channel);
    this.chat.on("subscribed", (context) => this.joined(context));
    this.chat.on("publication", (publication) => this.receive(publication));
    this.people.watch(this.chat);
  }

  say(message) {
    if (sent.push(message.id) > MOST_SENT) sent.shift();
    keep("sessionStorage", "sent", sent);
    this.people.said();
    this.outbox.add(message);
  }

  // Joining

  joined({ recovered }) {
    if (!recovered || this.held !== null) this.catchUp();
    // What was missed is told right after this.
    else queueMicrotask(() => this.caughtUp());
  }

  // Now we know what of ours arrived.
  caughtUp() {
    if (!document.hidden) this.log.away = false;
    this.outbox.sendAgain();
  }

  async catchUp() {
    this.held ??= [];
    const history = await this.chat.history().catch(() => null);
    // Interrupted again: the next time.
    if (this.chat.state !== "subscribed" || this.held === null) return;
    const held = this.held;
    this.held = null;
    this.showHistory(history);
    for (const publication of held) this.receive(publication);
    for (const { item } of this.outbox.entries.values()) this.log.moveToEnd(item);
    this.caughtUp();
  }

  showHistory(history) {
    const { publications = [], offset = 0, epoch = "" } = history ?? {};
    this.noticeGap(publications[0]?.offset ?? offset + 1, epoch);
    if (epoch !== this.epoch) this.offset = 0;
    this.epoch = epoch;
    for (const publication of publications) this.receive(publication);
  }

  noticeGap(first, epoch) {
    if (this.epoch === null) return;
    const missed = first - this.offset - 1;
    if (epoch !== this.epoch || epoch === "") this.log.notice("Some of what others said meanwhile may be missing.");
    else if (missed > 0) this.log.notice(`${missed} more were said meanwhile, too long ago to be kept.`);
  }

  // Sending

  async transmit(entry) {
    if (this.chat.state !== "subscribed") return this.postpone(entry);
    this.outbox.sending(entry);
    try {
      await this.hub.publish(this.channel, entry.message);
      this.confirm(entry);
    } catch (error) {
      if (this.outbox.get(entry.message.id) === entry) this.refused(entry, error);
    }
  }

  postpone(entry) {
    this.outbox.fail(entry, REASONS[3], true);
    if (this.hub.state === "connecting") this.hub.connect();
  }

  refused(entry, { code, message, cause }) {
    const why = code === LOST ? REFUSED_WITH[cause.code] : undefined;
    const again = why === undefined && code in REASONS;
    this.outbox.fail(entry, why ?? REASONS[code] ?? `Not delivered: ${sentence(message)}`, again);
  }

  confirm(entry) {
    if (this.outbox.get(entry.message.id) !== entry) return;
    this.seen.isNew(entry.message.id);
    this.outbox.delivered(entry);
  }

  // Receiving

  receive(publication) {
    if (this.held !== null) this.held.push(publication);
    else if (this.isNext(publication)) this.show(publication);
  }

  isNext({ offset = 0 }) {
    if (offset && offset <= this.offset) return false;
    this.offset = offset;
    return true;
  }

  show({ data, info }) {
    const message = readData(data);
    if (message.kind !== "message") return this.log.show({ ...message, at: Date.now(), raw: true });
    this.people.spoke(info?.client, message.user);
    const entry = this.outbox.get(message.id);
    const fresh = this.seen.isNew(message.id);
    if (entry !== undefined) this.outbox.delivered(entry);
    else if (fresh) this.showMessage(message);
  }

  showMessage(message) {
    const mine = sent.includes(message.id);
    this.log.show({ ...message, mine }).classList.toggle("delivered", mine);
  }
}
