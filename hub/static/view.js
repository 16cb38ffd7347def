// What is seen of the log: it follows the newest message, until somebody scrolls up to read.

import { $, hide } from "./dom.js";

const NEAR_END = 80;
const HUSH = 1000;

let following = true;
let scrolling = false;
let lastTop = 0;
// The last element when the end was last in sight.
let tail = null;
// Runs out when everything that comes is read out again.
let hush = null;

// There is a new message, or a notice of less importance.
export function shown(mine, notice) {
  if (mine) following = true;
  if (following) follow();
  else if (!notice) $("newer").hidden = false;
}

// Once a frame: a flood of messages must not lay out the page for each.
function follow() {
  if (scrolling) return;
  scrolling = true;
  requestAnimationFrame(() => {
    scrolling = false;
    if (following) toEnd();
  });
}

export function toEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
  tail = $("scroll").querySelector(".log > :last-child");
  hide("newer");
  following = true;
}

function scrolled() {
  const box = $("scroll");
  const near = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END;
  following = near || (following && !(box.scrollTop < lastTop && isTailBelow(box)));
  lastTop = box.scrollTop;
  if (following) hide("newer");
}

// The event comes late, and the position changes also when old messages go. Only a reader who scrolled up sees what was
// the last message sink below the edge.
function isTailBelow(box) {
  if (!tail?.isConnected) return false;
  return tail.getBoundingClientRect().bottom - box.getBoundingClientRect().bottom > NEAR_END;
}

// While a room is entered nothing is read out: a whole history comes.

export function beQuiet() {
  clearTimeout(hush);
  $("scroll").setAttribute("aria-live", "off");
}

export function speakSoon() {
  clearTimeout(hush);
  hush = setTimeout(() => $("scroll").setAttribute("aria-live", "polite"), HUSH);
}

$("newer").onclick = toEnd;
$("scroll").onscroll = scrolled;
// The text box grows, the keyboard of a phone comes up: the newest message stays in sight.
new ResizeObserver(() => following && toEnd()).observe($("scroll"));
