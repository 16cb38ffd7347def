const state = document.getElementById("state");
const messages = document.getElementById("messages");
const form = document.getElementById("form");

const url = new URL(`/rt/ws/${encodeURIComponent(document.body.dataset.room)}`, location.href);
url.protocol = url.protocol.replace("http", "ws");

let ws;

function connect() {
  ws = new WebSocket(url);
  ws.onopen = () => (state.textContent = "connected");
  ws.onmessage = (event) => {
    const item = document.createElement("li");
    item.textContent = event.data;
    messages.append(item);
  };
  ws.onclose = () => {
    state.textContent = "connection lost, trying again…";
    setTimeout(connect, 1000 + 1000 * Math.random());
  };
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (ws.readyState !== WebSocket.OPEN) return;
  ws.send(form.elements.text.value);
  form.reset();
});

connect();
