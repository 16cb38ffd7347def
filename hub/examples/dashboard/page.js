import { $, connect, el, follow, svg } from "./frame.js";

const SECONDS = 60;
const HUES = [262, 150, 30, 330, 200, 90];
const CHARTS = [
  { key: "cpu", title: "Processor", unit: "%", least: 20 },
  { key: "lag", title: "Event loop late by", unit: "ms", least: 10 },
  { key: "clients", title: "Clients connected", unit: "", least: 4 },
];

const hub = connect();
// By worker, its reports of the last minute; and its colour, in the order of coming.
const workers = new Map();
let newest = 0;
let known = 0;

function report({ data }) {
  newest = Math.max(newest, data.at);
  if (!workers.has(data.worker)) workers.set(data.worker, { hue: HUES[known++ % HUES.length], reports: [] });
  workers.get(data.worker).reports.push(data);
  for (const [name, { reports }] of workers) {
    while (reports.length && reports[0].at < newest - SECONDS) reports.shift();
    if (!reports.length) workers.delete(name);
  }
  requestAnimationFrame(draw);
}

follow(hub.subscribe("vitals:all"), { draw: report, clear: () => workers.clear() });

for (const chart of CHARTS) {
  chart.value = el("span", { className: "hint number push" });
  chart.image = svg("svg", { viewBox: `0 0 ${SECONDS} 100`, preserveAspectRatio: "none", role: "img", "aria-label": chart.title });
  const head = el("div", { className: "row" }, el("h2", { textContent: chart.title }), chart.value);
  document.querySelector("main").append(el("section", { className: "card" }, head, chart.image));
}

function draw() {
  for (const chart of CHARTS) drawChart(chart);
  $("legend").replaceChildren(...[...workers].map(([name, { hue }]) => hued(el("li", { className: "hued", textContent: name }), hue)));
}

function drawChart({ key, unit, least, image, value }) {
  const all = [...workers.values()].flatMap(({ reports }) => reports.map((each) => each[key]));
  const top = Math.max(least, ...all) * 1.08;
  value.textContent = `at most ${Math.max(0, ...all)} ${unit}`;
  const lines = [0, 50, 100].map((y) => svg("path", { class: "grid", d: `M0 ${y}H${SECONDS}` }));
  for (const { hue, reports } of workers.values()) {
    const points = reports.map((each) => `${each.at - newest + SECONDS} ${(100 - (100 * each[key]) / top).toFixed(1)}`);
    const line = `M${points.join("L")}`;
    const [first, last] = [reports[0], reports.at(-1)].map(({ at }) => at - newest + SECONDS);
    const area = svg("path", { class: "area", d: `${line}L${last} 100L${first} 100Z` });
    lines.push(hued(svg("g", { class: "hued" }, area, svg("path", { class: "line", d: line })), hue));
  }
  image.replaceChildren(...lines);
}

function hued(element, hue) {
  element.style.setProperty("--hue", hue);
  return element;
}

$("work").onclick = async () => {
  $("work").disabled = true;
  await hub.rpc("dashboard.work").catch(() => {});
  $("work").disabled = false;
};
