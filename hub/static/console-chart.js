// A number over the last minutes: a small chart with its greatest value. Hovering says what it was at a moment.

import { element } from "./render.js";

const SVG = "http://www.w3.org/2000/svg";
// Points, one a second: at most, and those that fill the chart from edge to edge at first.
const MOST = 180;
const LEAST = 45;
const HEIGHT = 40;

function svg(tag, attributes = {}) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

export class Tile {
  // `say` makes a text of a value, `least` is the smallest top of the scale.
  constructor({ name, say, least }) {
    Object.assign(this, { name, say, least });
    // {at, value}, one a second.
    this.points = [];
    this.value = element("p", { className: "value" }, "–");
    this.note = element("p", { className: "note" });
    this.peak = element("p", { className: "peak" });
    this.area = svg("polygon", { class: "area" });
    this.line = svg("polyline", { class: "line", "vector-effect": "non-scaling-stroke" });
    this.mark = svg("line", { class: "mark", "vector-effect": "non-scaling-stroke", y1: 0, y2: HEIGHT });
    this.chart = svg("svg", { viewBox: `0 0 ${LEAST} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.chart.append(this.area, this.line, this.mark);
    const head = element("header", {}, element("h3", {}, name), this.peak);
    this.node = element("li", { className: "tile" }, head, this.value, this.note, this.chart);
    this.chart.addEventListener("pointermove", (event) => this.point(event));
    this.chart.addEventListener("pointerleave", () => this.leave());
    // The point under the pointer; null if there is none.
    this.pointed = null;
    this.mark.style.display = "none";
  }

  add(at, value, note, tone = "") {
    if (value !== null) this.points.push({ at, value });
    if (this.points.length > MOST) this.points.shift();
    this.latest = { text: value === null ? "–" : this.say(value), note };
    this.node.dataset.tone = tone;
    this.draw();
  }

  // In seconds.
  get width() {
    return Math.max(LEAST, this.points.length) - 1;
  }

  draw() {
    const most = Math.max(this.least, ...this.points.map(({ value }) => value));
    const left = this.width - this.points.length + 1;
    this.chart.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const at = this.points.map(({ value }, index) => `${left + index},${(HEIGHT - (value / most) * (HEIGHT - 3)).toFixed(2)}`);
    this.line.setAttribute("points", at.join(" "));
    this.area.setAttribute("points", at.length ? `${left},${HEIGHT} ${at.join(" ")} ${this.width},${HEIGHT}` : "");
    this.peak.textContent = this.points.length ? `↑ ${this.say(Math.max(...this.points.map(({ value }) => value)))}` : "";
    const index = this.points.indexOf(this.pointed);
    if (index >= 0) this.markAt(left + index);
    else this.leave();
  }

  tell(value, note) {
    if (this.value.textContent !== value) this.value.textContent = value;
    if (this.note.textContent !== note) this.note.textContent = note;
  }

  point({ offsetX }) {
    const x = Math.round((offsetX / this.chart.clientWidth) * this.width);
    const point = this.points[x - (this.width - this.points.length + 1)];
    if (!point) return this.leave();
    this.pointed = point;
    this.mark.style.display = "";
    this.markAt(x);
    this.tell(this.say(point.value), `at ${new Date(point.at).toLocaleTimeString()}`);
  }

  markAt(x) {
    this.mark.setAttribute("x1", x);
    this.mark.setAttribute("x2", x);
  }

  leave() {
    this.pointed = null;
    this.mark.style.display = "none";
    if (this.latest) this.tell(this.latest.text, this.latest.note);
  }
}
