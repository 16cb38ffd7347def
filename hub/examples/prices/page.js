import { $, connect, el, svg } from "./frame.js";

const POINTS = 90;

const hub = connect();
const tiles = new Map();
let ticks = 0;

hub.subscribe("prices:all").on("publication", ({ data }) => {
  for (const [name, price] of Object.entries(data)) tile(name).update(price);
  $("ticks").textContent = ++ticks;
});

function tile(name) {
  if (!tiles.has(name)) tiles.set(name, newTile(name));
  return tiles.get(name);
}

function newTile(name) {
  const price = el("strong", { className: "number" });
  const change = el("span", { className: "number push" });
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const chart = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
  const seen = [];
  $("prices").append(el("section", { className: "card" }, el("h2", { textContent: name }), el("div", { className: "row" }, price, change), chart));

  function update(value) {
    const before = seen.at(-1) ?? value;
    if (seen.push(value) > POINTS) seen.shift();
    const since = (100 * (value - seen[0])) / seen[0];
    const trend = since < 0 ? "down" : "up";
    price.textContent = value.toFixed(2);
    price.className = `number ${value > before ? "up" : value < before ? "down" : ""}`;
    change.textContent = `${since < 0 ? "▼" : "▲"} ${Math.abs(since).toFixed(2)} %`;
    change.className = `number push ${trend}`;
    chart.setAttribute("class", trend);
    const path = draw(seen);
    line.setAttribute("d", path);
    area.setAttribute("d", `${path}V40H0Z`);
    chart.setAttribute("viewBox", `0 0 ${Math.max(1, seen.length - 1)} 40`);
  }

  return { update };
}

function draw(seen) {
  const [low, high] = [Math.min(...seen), Math.max(...seen)];
  const y = (value) => 36 - (32 * (value - low)) / (high - low || 1);
  return seen.map((value, at) => `${at ? "L" : "M"}${at} ${y(value).toFixed(1)}`).join("");
}
