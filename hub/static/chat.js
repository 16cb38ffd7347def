// The chat page, on hub.js.

import { $, setText } from "./dom.js";
import { Hub } from "./hub.js";
import * as page from "./page.js";
import { element } from "./render.js";
import { Room } from "./room.js";
import { Status } from "./status.js";

const MOST_NAMES = 30;

const hub = new Hub(document.documentElement.dataset.connection, { name: "hub chat", token: page.takeToken() ?? undefined });
const status = new Status(hub, page.showState);

// Who is there: once a frame, because a whole room may come back at once.

let drawing = false;

function drawPeople(room) {
  if (room !== page.room || drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const { people } = page.room;
    drawMembers(people);
    drawTypists(people.typists());
  });
}

function drawMembers(people) {
  const known = people.members !== null;
  setText("count", known ? `${people.members.size} here` : "");
  $("people-section").hidden = !known;
  if (!known) return;
  const list = people.list();
  const items = list.slice(0, MOST_NAMES).map(personItem);
  if (list.length > MOST_NAMES) items.push(element("li", { className: "more" }, `and ${list.length - MOST_NAMES} more`));
  $("people").replaceChildren(...items);
}

function personItem({ name, count, own }) {
  const note = own ? " (you)" : count > 1 ? ` (${count})` : "";
  return element("li", {}, element("bdi", {}, name), note);
}

function drawTypists(names) {
  const line = element("p", {}, ...whoTypes(names));
  if ($("typing").textContent !== line.textContent) $("typing").replaceChildren(...line.childNodes);
}

function whoTypes(names) {
  if (names.length === 0) return [];
  if (names.length > 2) return [`${names.length} people are typing…`];
  const [first, second] = names.map((name) => element("bdi", {}, name));
  return second ? [first, " and ", second, " are typing…"] : [first, " is typing…"];
}

page.start({
  product: "hub chat",
  memory: "rooms",
  newRoom: (name) => new Room(name, { hub, userName: page.userName, onShown: page.shown, onPeople: drawPeople }),
  enter(room) {
    status.enter(room.channel);
    room.enter();
    drawPeople(room);
    hub.connect();
  },
  leave: (room) => room?.leave(),
  // The same one, without everything that the chat adds.
  otherRoom: (name) => `chat:${name}`,
  retry: () => retry(),
  useToken(token) {
    hub.token = token;
    retry();
  },
  typed: (something) => page.room.people.typed(something),
  renamed() {
    page.room?.people.tell({});
    if (page.room) drawPeople(page.room);
  },
});

function retry() {
  page.room.chat.subscribe();
  hub.connect();
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && hub.state === "connecting") hub.connect();
});
