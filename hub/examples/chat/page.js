import { $, company, connect, el, follow, me, persona } from "./frame.js";

const CHANNEL = `chat:${/^#[a-z0-9-]{1,20}$/.test(location.hash) ? location.hash.slice(1) : "example"}`;
const MOST = 200;

const hub = connect();
const chat = hub.subscribe(CHANNEL);
// Mine that have not come back through the hub, by id.
const unsent = new Map();

function hued(element, who) {
  element.style.setProperty("--hue", who.hue);
  return element;
}

function show({ id, from, text }) {
  if (typeof text !== "string" || typeof from !== "string") return; // another program wrote it
  unsent.get(id)?.remove();
  unsent.delete(id);
  const item = message(from, text);
  item.classList.toggle("more", $("log").lastChild?.dataset.from === from);
  $("log").append(item, ...unsent.values());
  while ($("log").children.length > MOST) $("log").firstChild.remove();
  $("log").scrollTop = $("log").scrollHeight;
}

function message(from, text) {
  const who = persona(from);
  const name = hued(el("bdi", { className: "hued", textContent: who.name }), who);
  const item = el("li", {}, name, el("p", { textContent: text, dir: "auto" }));
  item.classList.toggle("mine", from === me.id);
  item.dataset.from = from;
  return item;
}

follow(chat, { draw: ({ data }) => show(data), clear: () => $("log").replaceChildren(...unsent.values()) });

$("say").onsubmit = async (event) => {
  event.preventDefault();
  const id = me.newId();
  const text = $("text").value;
  $("say").reset();
  unsent.set(id, message(me.id, text));
  unsent.get(id).classList.add("unsent");
  $("log").append(unsent.get(id));
  await chat.publish({ id, from: me.id, text }).catch((error) => unsent.get(id)?.append(` ${error.message}`));
};

async function count() {
  const present = await chat.presence().catch(() => null);
  if (present) $("people").textContent = company(present, hub.client);
}

for (const event of ["subscribed", "join", "leave"]) chat.on(event, count);
