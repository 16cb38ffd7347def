// All workers together, each worker, and their channels.

import { ask, tell } from "./console-ask.js";
import { Tile } from "./console-chart.js";
import { bytes, count, duration, percent, plural, rate, since } from "./console-format.js";
import { Rows, setCell } from "./console-rows.js";
import { $, onSubmit, setText } from "./dom.js";
import { element } from "./render.js";

const SEARCH_AFTER = 400;
const MOST_ROWS = 200;
// Seconds for which a loss is news.
const NEWS = 60;

const tiles = {
  connections: new Tile({ name: "Connections", say: count, least: 5 }),
  published: new Tile({ name: "Published / s", say: rate, least: 5 }),
  delivered: new Tile({ name: "Delivered / s", say: rate, least: 5 }),
  lag: new Tile({ name: "Loop lag", say: duration, least: 0.01 }),
  redis: new Tile({ name: "Redis", say: duration, least: 0.005 }),
  lost: new Tile({ name: "Lost", say: count, least: 1 }),
};

// What a worker's state is in words, and how bad it is.
const TONES = { ready: "good", "not ready": "bad", retiring: "wait", draining: "wait", silent: "bad" };

export class Overview {
  constructor({ hub, cluster }) {
    Object.assign(this, { hub, cluster });
    this.order = "subscribers";
    // What was found of the last search; null if all that there is is known anyway, or nothing is looked for.
    this.found = null;
    this.searchTimer = null;
    this.lostBefore = null;
    this.lostAt = -Infinity;
    this.workers = new Rows($("workers"), { key: ({ node }) => node, make: (worker) => this.workerRow(worker) });
    this.rows = new Rows($("channels"), { key: ({ name }) => name, make: channelRow });
    $("tiles").append(...Object.values(tiles).map(({ node }) => node));
    $("filter").oninput = () => this.search();
    for (const button of document.querySelectorAll("[data-order]")) button.onclick = () => this.sort(button.dataset.order);
    onSubmit("user-form", () => this.disconnect($("user").value.trim()));
    this.sort(this.order);
  }

  // Once a second.
  tick(now) {
    const totals = this.cluster.totals(now);
    if (totals.workers) this.addPoints(totals, Date.now());
  }

  addPoints({ connections, subscriptions, published, delivered, bytes: size, lag, round_trip: trip, losses }, at) {
    tiles.connections.add(at, connections, plural(subscriptions, "subscription"));
    tiles.published.add(at, published, "by clients and servers");
    tiles.delivered.add(at, delivered, `${bytes(size)} a second`);
    tiles.lag.add(at, lag?.lag ?? null, worstOf(lag), tone(lag?.lag, 0.1, 1));
    const redis = trip?.round_trip ?? null;
    tiles.redis.add(at, redis, redis === null ? "in memory, without Redis" : `round trip, ${worstOf(trip)}`, tone(redis, 0.05, 0.5));
    const total = losses.reduce((sum, [, number]) => sum + number, 0);
    if (this.lostBefore !== null && total > this.lostBefore) this.lostAt = at;
    this.lostBefore = total;
    const news = at - this.lostAt < NEWS * 1000;
    const said = losses.filter(([, number]) => number).map(([name, number]) => `${count(number)} ${name}`);
    tiles.lost.add(at, total, said.join(", ") || "since start", news ? "bad" : "");
  }

  draw(now) {
    const workers = this.cluster.list(now);
    const silent = workers.filter((worker) => worker.silent).length;
    setText("workers-count", plural(workers.length, "worker") + (silent ? `, ${silent} silent` : ""));
    this.workers.draw(workers);
    this.drawChannels(now);
  }

  // Workers

  workerRow({ node, host, pid, version, relay }) {
    const cell = (label, className = "n") => {
      const td = element("td", { className });
      td.dataset.label = label;
      return td;
    };
    const name = element("th", { scope: "row", title: `relay: ${relay}` });
    name.append(element("span", { className: "name" }, host), " ", element("small", {}, `${pid} · ${node.slice(0, 6)} · ${version}`));
    const state = cell("State", "badge");
    const labels = ["Connections", "Channels", "Published/s", "Delivered/s", "Lag", "Redis", "CPU", "Memory", "Lost", "Up"];
    const cells = labels.map((label) => cell(label));
    const button = element("button", { type: "button", className: "quiet" }, "Replace…");
    button.setAttribute("aria-label", `Replace worker ${pid} of ${host}`);
    button.onclick = () => this.replace({ node, host, pid });
    const row = element("tr", {}, name, state, ...cells, element("td", { className: "action" }, button));
    row.update = (worker) => updateWorker(worker, { row, state, cells, button });
    return row;
  }

  async replace({ node, host, pid }) {
    const text =
      "Another worker is started first. When it serves, this one takes no more connections, closes its own one after " +
      "another over the drain window (HUB_DRAIN) and ends. Clients reconnect by themselves and recover what their " +
      "channels keep. If the new worker cannot start, this one stays.";
    if (!(await ask({ title: `Replace worker ${pid} of ${host}?`, text, yes: "Replace" }))) return;
    await this.act("replace", { node }, `Worker ${pid} is being replaced.`);
  }

  async disconnect(user) {
    if (!user) return;
    const text = `All connections of “${user}”, on every worker, are closed with code 3503.`;
    if (!(await ask({ title: "Disconnect this user?", text, yes: "Disconnect" }))) return;
    if (await this.act("disconnect", { user }, `The connections of “${user}” are closed.`)) $("user").value = "";
  }

  async act(method, data, done) {
    try {
      await this.hub.rpc(method, data);
      tell(done);
      return true;
    } catch (error) {
      tell(`Not done: ${error.message}.`);
      return false;
    }
  }

  // Channels

  sort(order) {
    this.order = order;
    for (const button of document.querySelectorAll("[data-order]")) {
      const chosen = button.dataset.order === order;
      button.closest("th").setAttribute("aria-sort", chosen ? (order === "name" ? "ascending" : "descending") : "none");
    }
    this.drawChannels(performance.now(), true);
  }

  drawChannels(now, sorted = false) {
    const { list, all } = this.cluster.channels(now);
    const wanted = pattern($("filter").value.trim());
    const known = this.found && !all ? refreshed(this.found.channels, list) : list;
    const shown = known.filter(({ name }) => wanted === null || wanted.test(name));
    shown.sort(this.order === "name" ? byName : (a, b) => b[this.order] - a[this.order] || byName(a, b));
    // Nothing moves away under the pointer.
    const held = !sorted && $("channels").matches(":hover, :focus-within");
    this.rows.draw(shown.slice(0, MOST_ROWS), held);
    const most = Math.max(shown.length, wanted && this.found && !all ? this.found.count : 0);
    setText("channels-count", all || wanted ? plural(most, "channel") : `the busiest ${count(shown.length)}`);
    setText("channels-note", note(shown.length, all, wanted, this.found));
  }

  // Where there are too many channels to be told each second, they are asked for.
  search() {
    this.drawChannels(performance.now(), true);
    clearTimeout(this.searchTimer);
    const text = $("filter").value.trim();
    this.found = null;
    if (text && !this.cluster.channels(performance.now()).all) this.searchTimer = setTimeout(() => this.find(text), SEARCH_AFTER);
  }

  async find(text) {
    try {
      const answer = await this.hub.rpc("channels", { pattern: glob(text) });
      if (text !== $("filter").value.trim()) return;
      const channels = answer.channels.map(([name, subscribers]) => ({ name, subscribers, rate: 0 }));
      this.found = { count: answer.count, channels, at: new Date() };
      this.drawChannels(performance.now(), true);
    } catch (error) {
      tell(`The search failed: ${error.message}.`);
    }
  }
}

function worstOf(worker) {
  return worker ? `worst: ${worker.pid} of ${worker.host}` : "";
}

function tone(value, wait, bad) {
  if (value === null || value === undefined || value < wait) return "";
  return value < bad ? "wait" : "bad";
}

function updateWorker(worker, { row, state, cells, button }) {
  const said = worker.silent ? "silent" : worker.state;
  state.dataset.tone = TONES[said];
  setCell(state, worker.silent ? `silent for ${since(worker.age)}` : said);
  row.classList.toggle("silent", worker.silent);
  const texts = [
    count(worker.connections), count(worker.channels), rate(worker.published), rate(worker.delivered),
    duration(worker.lag), duration(worker.round_trip), percent(worker.processor), bytes(worker.memory),
    count(worker.lost), since(worker.uptime),
  ];
  texts.forEach((text, index) => setCell(cells[index], text));
  cells[5].dataset.tone = tone(worker.round_trip, 0.05, 0.5);
  cells[4].dataset.tone = tone(worker.lag, 0.1, 1);
  cells[8].title = Object.entries(worker.trouble).map(([name, number]) => `${name}: ${number}`).join(", ");
  cells[8].dataset.tone = worker.lost ? "wait" : "";
  button.hidden = !worker.replaceable || worker.silent || worker.state !== "ready";
}

function channelRow({ name }) {
  const link = element("a", { href: `#/channel/${encodeURIComponent(name)}` });
  link.append(element("bdi", {}, name));
  const subscribers = element("td", { className: "n" });
  const messages = element("td", { className: "n" });
  const row = element("tr", {}, element("th", { scope: "row" }, link), subscribers, messages);
  row.update = (channel) => {
    setCell(subscribers, count(channel.subscribers));
    setCell(messages, rate(channel.rate));
  };
  return row;
}

function byName(a, b) {
  return a.name < b.name ? -1 : 1;
}

// A part of a name; with * or ? a pattern for the whole of it.
function pattern(text) {
  if (!text) return null;
  const parts = text.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".");
  return new RegExp(/[*?]/.test(text) ? `^${parts}$` : parts, "s");
}

// The same for the hub.
function glob(text) {
  const escaped = text.replaceAll("[", "[[]");
  return /[*?]/.test(text) ? escaped : `*${escaped}*`;
}

function refreshed(channels, list) {
  const now = new Map(list.map((channel) => [channel.name, channel]));
  return channels.map((channel) => ({ ...channel, rate: now.get(channel.name)?.rate ?? 0 }));
}

function note(shown, all, wanted, found) {
  if (found && !all) return `Found at ${found.at.toLocaleTimeString()}; change the filter to look again.`;
  if (shown === 0) return wanted ? "No channel with subscribers has such a name." : "No channel has subscribers.";
  return all ? "" : "There are too many to show each: filter by name to find others.";
}
