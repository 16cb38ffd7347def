// The raw page: a room is a WebSocket of its own, and everything in it is shown as it comes. No library.

import { setText } from "./dom.js";
import { readFrame } from "./frames.js";
import * as page from "./page.js";
import { Connection } from "./raw-connection.js";
import { RawRoom } from "./raw-room.js";

// In front of the names of the chat page's rooms.
const CHAT = "chat:";

let token = page.takeToken();

function socketAddress(room) {
  const url = new URL(`${document.documentElement.dataset.ws}/${encodeURIComponent(room)}`, document.baseURI);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.search = new URLSearchParams({ hello: "1", ...(token ? { token } : {}) });
  return url;
}

const connection = new Connection({
  address: socketAddress,
  onState(state) {
    page.showState(state);
    if (state.state === "online") page.room.joined();
    else setText("worker", "");
  },
  onFrame(data, first) {
    const frame = readFrame(data);
    if (first && frame.kind === "hello") showWorker(frame);
    else page.room.receive(frame);
  },
  onLost: (code) => page.room.lost(code),
});

function showWorker({ node, worker }) {
  setText("worker", `worker ${worker} · node ${String(node).slice(0, 6)}`);
}

page.start({
  product: "hub raw rooms",
  memory: "raw-rooms",
  newRoom: (name) => new RawRoom(name, { connection, onShown: page.shown }),
  enter: (room) => connection.open(room.name),
  leave: () => connection.leave(),
  otherRoom: (name) => (name.startsWith(CHAT) ? name.slice(CHAT.length) : name),
  retry: () => connection.retryNow(),
  useToken(given) {
    token = given;
    connection.open(page.room.name);
  },
});
