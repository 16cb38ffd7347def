// The console: who may see it, its connection, and which view is shown.

import { ChannelView } from "./console-channel.js";
import { Cluster } from "./console-cluster.js";
import { Overview } from "./console-overview.js";
import { $, onSubmit, setText } from "./dom.js";
import { Hub } from "./hub.js";
import { sentence, whyClosed } from "./words.js";

// Where the workers tell their figures. No client of the hub can name it.
const FIGURES = "\u001fconsole";
const NO_TOKEN = 5;
const SECOND = 1000;

const hub = new Hub("console/websocket", { name: "hub console", getToken: ticket, maxDelay: 5_000 });
const cluster = new Cluster();
const overview = new Overview({ hub, cluster });
const channel = new ChannelView({ hub });
const figures = hub.subscribe(FIGURES);

let live = false;
// Whether there is something to log out of: else the application says who may be here.
let hasSession = false;

// Who may see it

async function ticket() {
  const answer = await fetch("console/ticket", { method: "POST" });
  // The application that guards the console sends the browser to its own login.
  if (answer.redirected) location.reload();
  if (answer.status === 401 || answer.status === 403) return null;
  if (!answer.ok) throw new Error(`the hub answers with status ${answer.status}`);
  const given = await answer.json();
  hasSession = given.session;
  return given.ticket;
}

async function login() {
  setText("login-fault", "");
  const body = JSON.stringify({ password: $("password").value });
  const headers = { "Content-Type": "application/json" };
  try {
    const answer = await fetch("console/login", { method: "POST", headers, body });
    if (answer.ok) return enter();
    const { detail } = await answer.json().catch(() => ({}));
    setText("login-fault", typeof detail === "string" ? detail : `The hub answers with status ${answer.status}.`);
  } catch {
    setText("login-fault", "The hub cannot be reached.");
  }
  $("password").select();
}

function enter() {
  $("password").value = "";
  show("wait");
  hub.connect();
}

async function logout() {
  await fetch("console/logout", { method: "POST" }).catch(() => {});
  channel.close();
  hub.disconnect();
  location.hash = "#/";
  location.reload();
}

// The connection

// A ticket is good for one connection.
hub.on("connecting", ({ delay, code, reason }) => {
  hub.token = undefined;
  if (delay > 0) state("connecting", whyClosed(code, reason));
});
hub.on("disconnected", ({ code, reason }) => {
  if (code === NO_TOKEN) return show("login");
  if (code > 0) state("refused", sentence(reason));
});
figures.on("subscribed", () => {
  state("live", "");
  cluster.forgive(performance.now());
  route();
});
figures.on("publication", ({ data }) => {
  cluster.hear(data, performance.now());
  draw();
});

function state(name, why) {
  live = name === "live";
  $("state").dataset.state = name;
  setText("state-text", name);
  document.body.classList.toggle("stale", !live);
  trouble(why);
}

function trouble(text) {
  setText("trouble", text);
  $("trouble").hidden = !text;
}

// What is shown

function show(view) {
  document.body.dataset.view = view;
  for (const name of ["login", "overview", "channel"]) $(name).hidden = name !== view;
  $("logout").hidden = !hasSession || view === "login" || view === "wait";
  $("state").hidden = view === "login";
  if (view === "login") $("password").focus();
}

function route() {
  const name = location.hash.match(/^#\/channel\/(.+)$/)?.[1];
  const before = document.body.dataset.view;
  if (name) {
    show("channel");
    channel.open(decode(name));
    if (before !== "channel") $("channel-name").focus();
  } else {
    channel.close();
    show("overview");
  }
  draw();
}

function decode(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

let drawing = false;

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const now = performance.now();
    if (document.body.dataset.view === "overview") overview.draw(now);
    if (document.body.dataset.view === "channel") channel.facts(cluster.channels(now));
  });
}

function tick() {
  const now = performance.now();
  if (!live) return cluster.forgive(now);
  cluster.expire(now);
  overview.tick(now);
  const workers = cluster.list(now);
  const deaf = workers.find(({ state, silence }) => state === "not ready" && silence > 3);
  trouble(deaf ? "Redis does not answer: only the worker that serves this page is heard, and nothing is relayed." : "");
  draw();
}

onSubmit("login-form", login);
$("logout").onclick = logout;
window.onhashchange = () => ["overview", "channel"].includes(document.body.dataset.view) && route();
setInterval(tick, SECOND);
show("wait");
hub.connect();
