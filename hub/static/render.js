// Elements of the log. Whatever came from the network becomes a text node, never markup.

const LINK = /https?:\/\/[^\s<>"]+[^\s<>".,;:!?')\]]/g;

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export function messageItem({ user, text, at, mine = false, raw = false, more = false }) {
  const item = element("li", { className: "message" }, whoSaidIt(user, at), bodyOf(text, at, raw));
  item.classList.toggle("mine", mine);
  item.classList.toggle("raw", raw);
  item.classList.toggle("more", more);
  item.style.setProperty("--hue", hueOf(user));
  return item;
}

export function noticeItem(text) {
  return element("li", { className: "notice" }, text);
}

export function clock(at) {
  return new Date(at).toLocaleTimeString([], { timeStyle: "short" });
}

export function dayOf(at) {
  return new Date(at).toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });
}

function whoSaidIt(user, at) {
  const when = new Date(at);
  const time = element("time", { dateTime: when.toISOString(), title: when.toLocaleString() }, clock(at));
  return element("div", { className: "who" }, element("bdi", {}, user), time);
}

function bodyOf(text, at, raw) {
  const properties = { className: "body", dir: "auto", title: new Date(at).toLocaleTimeString() };
  return element("div", properties, ...(raw ? [text] : withLinks(text)));
}

function withLinks(text) {
  const parts = [];
  let end = 0;
  for (const { 0: href, index } of text.matchAll(LINK)) {
    parts.push(text.slice(end, index), element("a", { href, target: "_blank", rel: "noopener noreferrer" }, href));
    end = index + href.length;
  }
  return [...parts, text.slice(end)];
}

// The same name has the same colour in every window.
function hueOf(name) {
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  // Names that differ little, as those with numbers, are far apart.
  return String((hash * 137) % 360);
}
