import { $, connect } from "./frame.js";

// Milliseconds without a word, after which the worker is asked to go on.
const SILENCE = 1000;

const hub = connect();
// The answer on the screen; null before the first question.
let sub = null;
let heardAt = 0;
let last = { offset: 0, words: 0, recovered: 0, interruptions: 0, ended: false };

function read(channel) {
  sub?.unsubscribe();
  last = { offset: 0, words: 0, recovered: 0, interruptions: 0, ended: false };
  $("answer").textContent = "";
  // From the beginning. After an interruption hub.js goes on from the last word by itself.
  sub = hub.subscribe(channel, { since: { offset: 0, epoch: "" } });
  sub.on("publication", hear);
  sub.on("subscribed", begin);
  show();
}

function hear({ data, offset }) {
  heardAt = Date.now();
  last.offset = offset;
  if (data.word) {
    last.words++;
    $("answer").append(data.word);
  }
  last.ended ||= Boolean(data.end);
  show();
}

function begin({ publications, recovered }) {
  if (last.offset && !recovered) return read(sub.channel); // away for too long
  if (last.offset) {
    last.interruptions++;
    last.recovered += publications.length;
  } else if (!publications.length) $("answer").textContent = "This answer is not kept any more.";
  goOn();
}

// The worker that wrote may be gone. Any other can go on; and if one is writing, nothing happens.
function goOn() {
  if (!last.ended) hub.rpc("stream.go_on", sub.channel).catch(() => {});
}

setInterval(() => sub?.state === "subscribed" && Date.now() - heardAt > SILENCE && goOn(), SILENCE);

function show() {
  $("answer").classList.toggle("going", !last.ended);
  $("answer").dataset.ended = last.ended;
  const { words, offset, interruptions, recovered } = last;
  $("facts").textContent = `words: ${words} · number of the last publication: ${offset} · interruptions: ${interruptions} · recovered after them: ${recovered}`;
}

$("ask").onsubmit = async (event) => {
  event.preventDefault();
  const channel = await hub.rpc("stream.ask", $("question").value).catch((error) => ($("facts").textContent = error.message));
  if (channel.startsWith("stream:")) location.hash = channel.slice("stream:".length);
};

$("cut").onclick = () => {
  hub.disconnect();
  setTimeout(() => hub.connect(), 1500);
};

function open() {
  if (/^#[0-9a-f]{16}$/.test(location.hash)) read(`stream:${location.hash.slice(1)}`);
}

addEventListener("hashchange", open);
open();
