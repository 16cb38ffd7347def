import { $, connect, el, follow } from "./frame.js";

const PEOPLE = ["ann", "bob", "eve"];
const me = PEOPLE.includes(location.hash.slice(1)) ? location.hash.slice(1) : "ann";

// The token says who it is. A real one is signed, or it is the cookie of a session.
const hub = connect({ token: me });
// Only the user may enter a channel with his id after the #.
const inbox = hub.subscribe(`inbox:#${me}`);
let unread = 0;

function show({ data: { text, kind } }) {
  $("inbox").prepend(el("li", { textContent: text }));
  $("inbox").firstChild.dataset.kind = kind;
  $("count").textContent = ++unread;
  document.title = `(${unread}) Notifications · broadcast-hub`;
}

function clear() {
  $("inbox").replaceChildren();
  unread = 0;
}

follow(inbox, { draw: show, clear });

for (const name of PEOPLE) {
  const button = el("button", { type: "button", textContent: name, ariaPressed: name === me });
  button.onclick = () => {
    location.hash = name;
    location.reload();
  };
  $("people").append(button);
  $("user").append(el("option", { textContent: name }));
}

$("send").onsubmit = async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ text: $("text").value, kind: $("kind").value });
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(`notify/${$("user").value}`, { method: "POST", headers, body });
  if (!response.ok) alert(`Not sent: ${response.status}`);
};
