// The page of an application's channels: its AsyncAPI document as cards, over one connection.

import { callCard } from "./asyncapi-call.js";
import { ChannelCard } from "./asyncapi-channel.js";
import { $, onSubmit, setText } from "./dom.js";
import { Hub } from "./hub.js";

const hub = new Hub("connection/websocket", { name: "asyncapi page" });

// The connection

hub.on("connecting", ({ code, reason }) => state("connecting", code > 0 ? reason : ""));
hub.on("connected", () => state("live", ""));
hub.on("disconnected", ({ code, reason }) => {
  if (!code) return;
  state("refused", `The hub does not let this page connect: ${reason} (${code}). It may want a token.`);
  $("connection").open = true;
  $("token").focus();
});

function state(name, why) {
  $("state").dataset.state = name;
  setText("state-text", name === "live" ? "connected" : name);
  setText("trouble", why);
  $("trouble").hidden = !why;
}

onSubmit("token-form", () => {
  hub.disconnect();
  hub.token = $("token").value || undefined;
  hub.connect();
});

// The document

const last = ({ $ref }) => $ref.split("/").pop();

function show({ info, servers, channels, operations, components: { schemas = {} } }) {
  document.title = `${info.title} · channels`;
  setText("title", `${info.title} ${info.version}`);
  setText("url", new URL("connection/websocket", location.href).href.replace(/^http/, "ws"));
  setText("about", servers.hub.description);
  for (const [key, channel] of Object.entries(channels)) {
    if (channel.address !== null) showChannel(key, channel, Object.values(operations), schemas);
  }
  for (const operation of Object.values(operations)) if (operation.reply) showCall(operation, channels, schemas);
  if (!$("channels").children.length) setText("channels-title", "No channels are declared");
}

function showChannel(key, channel, operations, schemas) {
  const messages = (action) =>
    operations
      .filter((operation) => operation.action === action && last(operation.channel) === key)
      .flatMap((operation) => operation.messages.map((message) => channel.messages[last(message)]));
  const drawn = new ChannelCard({ hub, channel, received: messages("send"), sent: messages("receive"), schemas });
  const untyped = channel.tags?.some(({ name }) => name === "untyped");
  add(untyped ? "others" : "channels", drawn.element);
}

function showCall({ channel, messages: [request], reply, "x-method": method, description }, channels, schemas) {
  const { messages } = channels[last(channel)];
  const told = { request: messages[last(request)], reply: messages[last(reply.messages[0])] };
  add("calls", callCard({ hub, method, about: description, ...told, schemas }));
}

function add(id, part) {
  $(id).append(part);
  const section = $(`${id}-section`);
  if (section) section.hidden = false;
}

async function load() {
  const answer = await fetch("asyncapi.json");
  if (!answer.ok) throw new Error(`the application answers with status ${answer.status}`);
  show(await answer.json());
  hub.connect();
}

load().catch((error) => state("refused", `The channels cannot be shown: ${error.message}.`));
