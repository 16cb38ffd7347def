import { $, connect, el, follow, me, svg, throttle } from "./frame.js";

const ROOM = /^#[a-z0-9]{1,20}$/.test(location.hash) ? location.hash.slice(1) : "main";
const HUES = [262, 25, 145, 85, 330, 200];
// As many as the hub keeps: so all pages have the same.
const MOST_STROKES = 300;
// A stroke that is longer goes on as another one.
const MOST_POINTS = 400;

const hub = connect();
const board = hub.subscribe(`board:${ROOM}`);
const pen = hub.subscribe(`pen:${ROOM}`);
// Strokes that are being drawn, here and elsewhere, by id.
const pens = new Map();
const done = svg("g");
const drawing = svg("g");
$("board").append(done, drawing);

let hue = HUES[me.hue % HUES.length];
// Ours: {id, hue, points}, with x and y by turns.
let stroke = null;

const isStroke = (data) => typeof data.id === "string" && Array.isArray(data.points) && data.points.length <= 2 * MOST_POINTS && data.points.every(Number.isFinite);

function path({ hue, points }) {
  const line = svg("path", { "stroke-width": 6, d: `M${points.slice(0, 2)}L${points.length > 2 ? points : [...points, ...points]}` });
  line.style.setProperty("--hue", Number(hue));
  return line;
}

const isDone = (id) => done.querySelector(`[data-id="${CSS.escape(id)}"]`) !== null;

function draw({ data }) {
  if (data.wipe) done.replaceChildren();
  if (!isStroke(data) || isDone(data.id)) return; // one that was sent again may come twice
  lift(data.id);
  done.append(path(data));
  done.lastChild.dataset.id = data.id;
  while (done.children.length > MOST_STROKES) done.firstChild.remove();
}

follow(board, { draw, clear: () => done.replaceChildren() });

pen.on("publication", ({ data }) => isStroke(data) && data.id !== stroke?.id && !isDone(data.id) && move(data));

function move(data) {
  const fresh = path(data);
  fresh.classList.add("pen");
  lift(data.id);
  // Of a pen that is heard of no more, the window was closed.
  pens.set(data.id, { line: fresh, timer: setTimeout(() => lift(data.id), 10_000) });
  drawing.append(fresh);
}

function lift(id) {
  if (!pens.has(id)) return;
  clearTimeout(pens.get(id).timer);
  pens.get(id).line.remove();
  pens.delete(id);
}

const tell = throttle(60, () => stroke && pen.publish(stroke).catch(() => {}));

function begin(point) {
  stroke = { id: me.newId(), hue, points: point };
}

function end() {
  if (!stroke) return;
  const finished = stroke;
  stroke = null;
  // Until it is on the board, which also brings it here; again and again if it must be.
  const publish = () => board.publish(finished).catch((error) => error.temporary && setTimeout(publish, 1000));
  publish();
}

const at = ({ clientX, clientY }) => {
  const box = $("board").getBoundingClientRect();
  return [Math.round((1000 * (clientX - box.left)) / box.width), Math.round((600 * (clientY - box.top)) / box.height)];
};

$("board").onpointerdown = (event) => {
  $("board").setPointerCapture(event.pointerId);
  begin(at(event));
  move(stroke);
};
$("board").onpointermove = (event) => {
  if (!stroke) return;
  stroke.points.push(...at(event));
  move(stroke);
  tell();
  if (stroke.points.length < 2 * MOST_POINTS) return;
  end();
  begin(at(event));
};
$("board").onpointerup = $("board").onpointercancel = end;

$("clear").onclick = () => board.publish({ wipe: true }).catch(() => {});

for (const each of HUES) {
  const button = el("button", { type: "button", ariaLabel: `Ink ${each}`, ariaPressed: each === hue });
  button.style.setProperty("--hue", each);
  button.onclick = () => {
    hue = each;
    for (const other of $("inks").children) other.ariaPressed = other === button;
  };
  $("inks").append(button);
}
