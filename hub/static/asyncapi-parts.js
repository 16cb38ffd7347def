// What channels and calls have in common: a card that opens, a form with JSON, answers in a log.

import { element } from "./render.js";

const MOST_ENTRIES = 100;
const LONGEST = 4000;

export function card(title, note, ...content) {
  const summary = element("summary", {}, element("h3", {}, title), " ", element("span", { className: "note" }, note));
  return element("details", { className: "card" }, summary, ...content);
}

export const note = (text) => element("p", { className: "note" }, text);

// A fault is told to those who do not see it, too.
export function faultLine() {
  const line = element("p", { className: "fault" });
  line.setAttribute("role", "alert");
  return line;
}

export function jsonField(label, value) {
  const text = value === undefined ? "" : JSON.stringify(value, null, 2);
  const rows = Math.min(12, Math.max(3, text.split("\n").length));
  const field = element("textarea", { value: text, rows, spellcheck: false, dir: "auto" });
  return { field, block: element("label", {}, label, field) };
}

// The value of a field; undefined, with the reason in `line`, if it is no JSON.
export function parsed(field, line) {
  line.textContent = "";
  try {
    return JSON.parse(field.value);
  } catch (error) {
    line.textContent = `This is no JSON: ${error.message}.`;
    field.focus();
    return undefined;
  }
}

// What a hub says against it.
export function refusal(error) {
  return `Refused: ${error.message} (${error.code}).`;
}

export class Log {
  constructor(label, className = "entries") {
    this.list = element("ol", { className, tabIndex: 0 });
    this.list.setAttribute("role", "log");
    this.list.setAttribute("aria-label", label);
  }

  // Whatever came from the network becomes text.
  add(head, data) {
    const { list } = this;
    const following = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const said = element("span", { className: "head" }, head);
    list.append(element("li", {}, said, ...(data === undefined ? [] : [element("pre", { dir: "auto" }, shown(data))])));
    while (list.children.length > MOST_ENTRIES) list.firstChild.remove();
    if (following) list.scrollTop = list.scrollHeight;
  }

  clear() {
    this.list.replaceChildren();
  }
}

function shown(data) {
  const text = JSON.stringify(data, null, 1) ?? "";
  return text.length > LONGEST ? `${text.slice(0, LONGEST)} … (${text.length} characters)` : text;
}

export const now = () => new Date().toLocaleTimeString();
