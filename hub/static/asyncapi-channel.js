// The card of a channel: its parameters, what is published in it, and a message by hand.

import { card, faultLine, jsonField, Log, note, now, parsed, refusal } from "./asyncapi-parts.js";
import { schemaTables, typeText } from "./asyncapi-schema.js";
import { element } from "./render.js";

const PERMISSION_DENIED = 103;

export class ChannelCard {
  // `received`, `sent`: messages of the document, the latter empty if clients may not publish.
  constructor({ hub, channel, received, sent, schemas }) {
    Object.assign(this, { hub, channel, received, sent, schemas });
    // While it is subscribed, or asks for it.
    this.sub = null;
    this.fields = {};
    this.log = new Log("Publications");
    this.state = note("");
    this.fault = faultLine();
    this.button = element("button", { type: "submit", className: "main" }, "Subscribe");
    this.element = card(channel.address, features(channel), ...this.content());
  }

  content() {
    const tried = element("div", {}, this.subscribeForm(), this.log.list, ...(this.sent.length ? [this.publishForm()] : []));
    const about = this.channel.description ? [note(this.channel.description)] : [];
    return [...about, element("div", { className: "try" }, tried, element("div", {}, ...this.models()))];
  }

  models() {
    const payloads = new Map([...this.received, ...this.sent].map(({ name, payload }) => [name, payload]));
    const blocks = [...payloads.values()].map((payload) => element("div", {}, ...schemaTables(payload, this.schemas)));
    return this.sent.length ? blocks : [...blocks, note("Clients do not publish here.")];
  }

  // The channel's name

  subscribeForm() {
    const fields = Object.entries(this.channel.parameters ?? {}).map(([name, parameter]) => this.parameter(name, parameter));
    const form = element("form", { className: "fields" }, ...fields, element("div", { className: "joined" }, this.state, this.button));
    form.onsubmit = (event) => {
      event.preventDefault();
      this.sub ? this.unsubscribe() : this.subscribe();
    };
    // Another channel is meant.
    form.oninput = () => this.sub && this.unsubscribe();
    form.append(this.fault);
    return form;
  }

  parameter(name, { enum: choices, description, "x-schema": schema }) {
    const field = choices
      ? element("select", {}, ...choices.map((value) => element("option", { value }, value)))
      : element("input", { required: true, autocomplete: "off", spellcheck: false, dir: "auto" });
    field.name = name;
    this.fields[name] = field;
    const type = choices ? "" : `: ${typeText(schema ?? true)}`;
    return element("label", {}, [`${name}${type}`, description].filter(Boolean).join(" — "), field);
  }

  name() {
    return this.channel.address.replace(/\{([^{}]*)\}/g, (_, name) => this.fields[name]?.value ?? "");
  }

  // Listening

  subscribe() {
    const sub = (this.sub = this.hub.subscribe(this.name()));
    const mine = (handler) => (event) => sub === this.sub && handler(event);
    this.fault.textContent = "";
    this.log.clear();
    this.say("subscribing…");
    sub.on("subscribed", mine(({ recovered }) => this.say(recovered ? "subscribed, nothing was missed" : "subscribed")));
    sub.on("subscribing", mine(({ reason }) => this.say(`interrupted: ${reason}`)));
    sub.on("unsubscribed", mine((event) => this.ended(event)));
    sub.on("publication", mine((publication) => this.hear(publication)));
    sub.on("join", mine(({ info }) => this.log.add(`${now()} ${info.user || info.client} has come`)));
    sub.on("leave", mine(({ info }) => this.log.add(`${now()} ${info.user || info.client} has gone`)));
    // Another card may have it already.
    if (sub.state === "subscribed") this.say("subscribed");
    this.button.textContent = "Unsubscribe";
  }

  unsubscribe() {
    const { sub } = this;
    this.ended({ code: 0 });
    sub.unsubscribe();
  }

  ended({ code, reason }) {
    this.sub = null;
    this.button.textContent = "Subscribe";
    this.say("");
    if (code) this.fault.textContent = `Not subscribed: ${reason} (${code}).`;
  }

  hear({ data, offset, info }) {
    const who = info ? info.user || `client ${info.client.slice(0, 8)}` : "the application";
    this.log.add([now(), offset && `#${offset}`, `from ${who}`].filter(Boolean).join(" "), data);
  }

  say(text) {
    this.state.textContent = text;
  }

  // Publishing

  publishForm() {
    const { field, block } = jsonField("Message", this.sent[0].examples?.[0].payload ?? {});
    const fault = faultLine();
    const told = note("");
    const button = element("button", { type: "submit" }, "Publish");
    const form = element("form", { className: "fields" }, block, element("div", { className: "joined" }, told, button), fault);
    form.onsubmit = (event) => {
      event.preventDefault();
      this.publish(field, fault, told);
    };
    return form;
  }

  async publish(field, fault, told) {
    told.textContent = "";
    const data = parsed(field, fault);
    if (data === undefined) return;
    const empty = Object.values(this.fields).find((input) => !input.value);
    if (empty) return void empty.reportValidity();
    try {
      await this.hub.publish(this.name(), data);
      told.textContent = "published";
    } catch (error) {
      const hint = error.code === PERMISSION_DENIED && !this.sub ? " Perhaps only subscribers may publish here." : "";
      fault.textContent = refusal(error) + hint;
    }
  }
}

function features({ "x-hub": known = {} }) {
  const words = { history: "history", recovery: "recovery", presence: "presence", joinLeave: "joins and leaves" };
  return Object.keys(words).filter((key) => known[key]).map((key) => words[key]).join(", ");
}
