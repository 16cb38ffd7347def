// One channel: what is published in it now, what was before, who is there, and a message by hand.

import { ask, tell } from "./console-ask.js";
import { count, plural, rate } from "./console-format.js";
import { $, onSubmit, setText } from "./dom.js";
import { element } from "./render.js";

const MOST_ENTRIES = 200;
const LONGEST = 4000;
const HISTORY = 50;
const MOST_PEOPLE = 200;
// Errors of the hub for what a channel does not have.
const NOT_THERE = new Set([102, 108]);

export class ChannelView {
  constructor({ hub }) {
    this.hub = hub;
    // While a channel is open.
    this.name = null;
    this.sub = null;
    // Publications that are not drawn yet: until the next frame, or while the log is paused.
    this.waiting = [];
    this.missed = 0;
    this.paused = false;
    this.drawing = false;
    $("pause").onclick = () => this.pause(!this.paused);
    $("clear").onclick = () => this.clear();
    $("read-history").onclick = () => this.readHistory();
    $("read-presence").onclick = () => this.readPresence();
    onSubmit("publish-form", () => this.publish());
  }

  open(name) {
    if (name === this.name) return;
    this.close();
    this.name = name;
    $("channel-name").textContent = name;
    document.title = `${name} · hub console`;
    this.clear();
    this.pause(false);
    $("history").replaceChildren();
    $("history").hidden = true;
    $("presence").replaceChildren();
    for (const id of ["history-note", "presence-note", "publish-fault"]) setText(id, "");
    const sub = (this.sub = this.hub.subscribe(name));
    sub.on("subscribed", () => this.say(""));
    sub.on("subscribing", ({ reason }) => this.say(`interrupted: ${reason}`));
    sub.on("unsubscribed", ({ code, reason }) => code && this.say(`not heard: ${reason}`));
    sub.on("publication", (publication) => sub === this.sub && this.hear(publication));
    this.say("subscribing");
    this.readPresence();
  }

  close() {
    const { sub } = this;
    this.name = this.sub = null;
    sub?.unsubscribe();
    document.title = "hub console";
  }

  facts({ list, all }) {
    const known = list.find(({ name }) => name === this.name);
    const text = `${plural(known?.subscribers ?? 0, "subscriber")} with this page, ${rate(known?.rate ?? 0)} messages a second`;
    setText("channel-facts", known || all ? text : "");
  }

  // Live

  hear(publication) {
    this.waiting.push({ ...publication, at: new Date() });
    if (this.waiting.length > MOST_ENTRIES) {
      this.waiting.shift();
      this.missed++;
    }
    if (this.paused) return this.say();
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      if (!this.paused) this.draw();
    });
  }

  draw() {
    const log = $("tail");
    const following = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.append(...this.waiting.splice(0).map(entry));
    while (log.children.length > MOST_ENTRIES) log.firstChild.remove();
    if (following) log.scrollTop = log.scrollHeight;
    this.missed = 0;
    this.say();
  }

  pause(paused) {
    this.paused = paused;
    $("pause").setAttribute("aria-pressed", String(paused));
    if (paused) this.say();
    else this.draw();
  }

  clear() {
    this.waiting = [];
    this.missed = 0;
    $("tail").replaceChildren();
    this.say("waiting for the first message");
  }

  say(text) {
    const waiting = this.waiting.length + this.missed;
    if (this.paused) setText("tail-note", `paused, ${count(waiting)} more`);
    else if (text) setText("tail-note", text);
    else setText("tail-note", $("tail").children.length ? `the last ${$("tail").children.length}` : "waiting for the first message");
  }

  // History and presence

  async readHistory() {
    const { name } = this;
    const read = () => this.hub.history(name, { limit: HISTORY, reverse: true });
    const history = await this.read("history-note", read, "This channel keeps no history.");
    if (!history || name !== this.name) return;
    $("history").hidden = false;
    $("history").replaceChildren(...history.publications.map(entry));
    setText("history-note", `${history.publications.length} shown, the channel is at offset ${history.offset}`);
  }

  async readPresence() {
    const { name } = this;
    const present = await this.read("presence-note", () => this.hub.presence(name), "This channel keeps no presence.");
    if (!present || name !== this.name) return;
    const people = Object.values(present).sort((a, b) => (a.user < b.user ? -1 : 1));
    setText("presence-note", plural(people.length, "connection"));
    const items = people.slice(0, MOST_PEOPLE).map((person) => this.person(person));
    if (people.length > MOST_PEOPLE) items.push(element("li", {}, `and ${count(people.length - MOST_PEOPLE)} more`));
    $("presence").replaceChildren(...items);
  }

  async read(id, question, none) {
    setText(id, "reading…");
    try {
      return await question();
    } catch (error) {
      setText(id, NOT_THERE.has(error.code) ? none : `not read: ${error.message}`);
      return null;
    }
  }

  person({ user, client, connInfo, chanInfo }) {
    const infos = [connInfo, chanInfo].filter((info) => info !== undefined).map((info) => JSON.stringify(info));
    const who = element("span", { className: "who" }, element("bdi", {}, user || "anonymous"), " ");
    who.append(element("small", { title: client }, client.slice(0, 8)));
    if (infos.length) who.append(element("code", {}, infos.join(" ").slice(0, LONGEST)));
    const button = element("button", { type: "button", className: "quiet" }, "Disconnect…");
    button.setAttribute("aria-label", `Disconnect ${user || "the anonymous connection"} ${client.slice(0, 8)}`);
    button.onclick = () => this.disconnect(user, client);
    return element("li", {}, who, button);
  }

  async disconnect(user, client) {
    const text = `The connection ${client} of “${user || "anonymous"}” is closed with code 3503; SDKs do not reconnect after it.`;
    if (!(await ask({ title: "Disconnect this connection?", text, yes: "Disconnect" }))) return;
    try {
      await this.hub.rpc("disconnect", { user, client });
      tell("The connection is closed.");
    } catch (error) {
      tell(`Not done: ${error.message}.`);
    }
    setTimeout(() => this.name && this.readPresence(), 300);
  }

  // By hand

  async publish() {
    const json = document.querySelector("[name=kind]:checked").value === "json";
    const data = $("message").value;
    setText("publish-fault", json ? complaint(data) : "");
    if ($("publish-fault").textContent) return;
    try {
      const { offset } = await this.hub.rpc("publish", { channel: this.name, data, json });
      tell(offset === undefined ? "Published." : `Published at offset ${offset}.`);
      $("message").select();
    } catch (error) {
      setText("publish-fault", `Not published: ${error.message}.`);
    }
  }
}

function complaint(text) {
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return `This is no JSON: ${error.message}. Choose “Text” to send it as it is.`;
  }
}

// Whatever was published becomes text.
function entry({ data, offset, info, tags, at }) {
  const head = element("span", { className: "head" });
  if (at) head.append(element("time", { dateTime: at.toISOString() }, at.toLocaleTimeString()), " ");
  if (offset) head.append(element("span", {}, `#${offset}`), " ");
  head.append(element("bdi", { title: info?.client ?? "" }, info ? info.user || "anonymous" : "server"));
  if (tags) head.append(" ", element("code", {}, JSON.stringify(tags)));
  return element("li", {}, head, element("pre", { dir: "auto" }, shown(data)));
}

function shown(data) {
  const text = typeof data === "string" ? data : JSON.stringify(data);
  return text.length > LONGEST ? `${text.slice(0, LONGEST)} … (${text.length} characters)` : text;
}
