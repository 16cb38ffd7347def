import { $, connect, el, me, persona, svg, throttle } from "./frame.js";

// Of the arena's width and height; the hub has the same.
const REACH = 0.06;

const hub = connect({ token: me.secret });
const arena = hub.subscribe("arena:1");
const stars = hub.subscribe("stars:1");
// By user id.
const players = new Map();
// Which user we are; the hub tells.
let own = null;
let star = { number: 0, x: 0.5, y: 0.3, points: {} };
// The star that was asked for.
let asked = -1;
// Where our dot is; null before it has moved.
let here = null;

const shape = [...Array(10).keys()].map((n) => [n % 2 ? 11 : 26, (n * Math.PI) / 5]).map(([r, a]) => `${r * Math.sin(a)},${-r * Math.cos(a)}`);
const image = svg("g", {}, svg("polygon", { class: "star", points: shape.join(" ") }));
const dots = svg("path", { class: "dots", d: [...Array(24 * 14).keys()].map((n) => `M${20 + (n % 24) * 41.7} ${28 + Math.floor(n / 24) * 42}h2v2h-2z`).join("") });
$("arena").append(dots, image);

const place = (element, { x, y }) => element.setAttribute("transform", `translate(${x * 1000} ${y * 600})`);

function player(user) {
  if (!players.has(user)) {
    const { name, hue } = persona(user);
    const dot = svg("g", { class: "player", "data-user": user }, svg("circle"), svg("text", { y: 50 }));
    dot.lastChild.textContent = user === own ? "you" : name;
    dot.classList.toggle("mine", user === own);
    dot.style.setProperty("--hue", hue);
    place(dot, { x: 0.1 + (hue / 360) * 0.8, y: 0.85 });
    $("arena").append(dot);
    players.set(user, dot);
  }
  return players.get(user);
}

// The hub says who has sent it: nobody moves another's dot.
arena.on("publication", ({ data: { x, y }, info }) => {
  if (x >= 0 && x <= 1 && y >= 0 && y <= 1 && info && info.user !== own) place(player(info.user), { x, y });
});

async function meet() {
  const present = await arena.presence().catch(() => null);
  if (!present) return; // asked again when we are back
  own = present[hub.client]?.user ?? own;
  const users = new Set(Object.values(present).map(({ user }) => user));
  for (const [user, dot] of players) if (!users.has(user) && players.delete(user)) dot.remove();
  users.forEach(player);
  score();
}

for (const event of ["subscribed", "join", "leave"]) arena.on(event, meet);

stars.on("publication", ({ data }) => {
  star = data;
  place(image, star);
  score();
});
place(image, star);

function score() {
  const points = Object.entries(star.points).filter(([user]) => players.has(user));
  const best = points.sort(([, a], [, b]) => b - a).slice(0, 8);
  $("points").replaceChildren(...best.map(([user, count]) => {
    const item = el("li", { className: "hued", textContent: `${user === own ? "you" : persona(user).name} ${count}` });
    item.style.setProperty("--hue", persona(user).hue);
    return item;
  }));
}

const tell = throttle(70, (at) => arena.publish(at).catch(() => {})); // the next one is better anyway

// Who comes does not know where the others are.
arena.on("join", () => here && tell(here));

$("arena").onpointermove = ({ clientX, clientY }) => {
  if (own === null) return;
  const box = $("arena").getBoundingClientRect();
  const within = (value) => Math.round(1000 * Math.min(1, Math.max(0, value))) / 1000;
  here = { x: within((clientX - box.left) / box.width), y: within((clientY - box.top) / box.height) };
  place(player(own), here);
  tell(here);
  if (Math.max(Math.abs(here.x - star.x), Math.abs(here.y - star.y)) < REACH) grab(here);
};
$("arena").onpointerdown = $("arena").onpointermove;

async function grab(at) {
  if (asked === star.number) return;
  asked = star.number;
  const mine = await hub.rpc("game.catch", at).catch(() => false);
  if (!mine) asked = -1; // another was first, or nobody heard us
}
