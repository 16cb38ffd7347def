// Who is in a room, what they call themselves, and who is typing.
//
// The hub knows clients, not the names on this page. Names, and that somebody types, travel in a channel beside the
// room's, one without history: {name, typing, hello}. Who comes says hello, and the others tell their names.

import { readName } from "./frames.js";

// In a larger room nobody answers a hello: it would be a flood.
const MOST_INTRODUCED = 50;
const MOST_NAMES = 1000;
const ANSWER_WITHIN = 500;
const TYPING_LASTS = 5000;
const TYPING_AGAIN = 2500;

// A colon would make a namespace of what is before it, and # means users.
const signalsOf = (room) => `signals.${room.replace(/[:#%]/g, encodeURIComponent)}`;

export class People {
  constructor({ hub, room, userName, onChange }) {
    Object.assign(this, { hub, userName, onChange });
    this.channel = signalsOf(room);
    // The subscriptions; null until the room is entered.
    this.chat = this.signals = null;
    // By client id; null while nobody knows.
    this.members = null;
    // Joins and leaves while the presence is being read: client id to ClientInfo, null for gone.
    this.changes = new Map();
    this.names = new Map();
    // Timers by client id.
    this.typing = new Map();
    this.answer = null;
    this.typedAt = 0;
  }

  enter() {
    if (this.signals !== null) return this.signals.subscribe();
    this.signals = this.hub.subscribe(this.channel);
    this.signals.on("subscribed", () => this.tell({ hello: true }));
    this.signals.on("publication", ({ info, data }) => info && this.hear(info.client, Object(data)));
  }

  leave() {
    this.signals.unsubscribe();
    this.names.clear();
  }

  watch(chat) {
    this.chat = chat;
    chat.on("subscribed", () => this.read());
    chat.on("subscribing", () => this.clear());
    chat.on("unsubscribed", () => this.clear());
    chat.on("join", ({ info }) => this.change(info.client, info));
    chat.on("leave", ({ info }) => this.change(info.client, null));
  }

  // Who is there

  async read() {
    const changes = (this.changes = new Map());
    const present = await this.chat.presence().catch(() => null);
    // It may be forbidden; or this was interrupted.
    if (present === null || changes !== this.changes) return;
    this.members = new Map(Object.entries(present));
    for (const [client, info] of changes) this.change(client, info);
    this.onChange();
  }

  change(client, info) {
    this.changes.set(client, info);
    if (info === null) this.forget(client);
    if (this.members === null) return;
    if (info === null) this.members.delete(client);
    else this.members.set(client, info);
    this.onChange();
  }

  clear() {
    this.members = null;
    this.changes = new Map();
    for (const client of [...this.typing.keys()]) this.rest(client);
    this.onChange();
  }

  forget(client) {
    this.names.delete(client);
    this.rest(client);
  }

  nameOf(client) {
    if (client === this.hub.client) return this.userName();
    const info = this.members?.get(client);
    return this.names.get(client) ?? readName(info?.connInfo?.name ?? info?.user);
  }

  // Ours first, the others by name: [{name, count, own}]
  list() {
    const own = this.hub.client;
    const counts = new Map();
    for (const client of this.members.keys()) {
      if (client !== own) counts.set(this.nameOf(client), (counts.get(this.nameOf(client)) ?? 0) + 1);
    }
    const others = [...counts].map(([name, count]) => ({ name, count, own: false }));
    others.sort((a, b) => a.name.localeCompare(b.name));
    return this.members.has(own) ? [{ name: this.userName(), count: 1, own: true }, ...others] : others;
  }

  typists() {
    return [...new Set([...this.typing.keys()].map((client) => this.nameOf(client)))];
  }

  // Signals

  hear(client, { name, typing, hello }) {
    if (client === this.hub.client) return;
    this.call(client, readName(name));
    if (typing === true) this.type(client);
    else if (typing === false) this.rest(client);
    if (hello === true) this.introduce();
    this.onChange();
  }

  spoke(client, name) {
    if (client === undefined || client === this.hub.client) return;
    // Of the history: they may have left.
    if (this.members?.has(client)) this.call(client, name);
    this.rest(client);
    this.onChange();
  }

  call(client, name) {
    // Who is not in the room (yet) is one of few, or somebody plays tricks.
    if (this.members?.has(client) || this.names.size < MOST_NAMES) this.names.set(client, name);
  }

  type(client) {
    clearTimeout(this.typing.get(client));
    this.typing.set(client, setTimeout(() => this.rest(client), TYPING_LASTS));
  }

  rest(client) {
    clearTimeout(this.typing.get(client));
    if (this.typing.delete(client)) this.onChange();
  }

  introduce() {
    if (this.answer !== null || this.members === null || this.members.size > MOST_INTRODUCED) return;
    this.answer = setTimeout(() => {
      this.answer = null;
      this.tell({});
    }, Math.random() * ANSWER_WITHIN);
  }

  // What is in the text box: something, or nothing.
  typed(something) {
    const now = Date.now();
    if (something && now - this.typedAt < TYPING_AGAIN) return;
    if (something || this.typedAt > 0) this.tell({ typing: something });
    this.typedAt = something ? now : 0;
  }

  // The message itself tells that we are done typing.
  said() {
    this.typedAt = 0;
  }

  tell(signal) {
    if (this.signals?.state !== "subscribed") return;
    this.signals.publish({ name: this.userName(), ...signal }).catch(() => {});
  }
}
