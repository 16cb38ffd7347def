// Keys of letters: texts that sort as the letters stand. They are read in groups of four digits of base 36.

const GROUP = 4;
const TOP = 36 ** GROUP;
// How far apart runs of letters begin, so that there is room for more after them.
const STEP = 1000;

// The latest that was made here. What is typed on after it stays beside it, whatever others type at the same place.
let newest = "";

const random = (below) => Math.floor(Math.random() * below);
const digits = (number) => number.toString(36).padStart(GROUP, "0");
const groupOf = (key, at) => parseInt(key.slice(at, at + GROUP), 36);

/** A key after `left` and before `right`; an empty one is the beginning or the end. No two are likely to be equal. */
export function between(left, right) {
  newest = (left && left === newest && next(left, right)) || place(left, right) + digits(1 + random(TOP - 1)) + digits(1);
  return newest;
}

// In the same run.
function next(left, right) {
  const key = left.slice(0, -GROUP) + digits(groupOf(left, left.length - GROUP) + 1);
  return key.length === left.length && (!right || key < right) ? key : "";
}

function place(left, right) {
  let key = "";
  let bounded = right !== "";
  for (let at = 0; ; at += GROUP) {
    const low = at < left.length ? groupOf(left, at) : 0;
    const high = bounded ? groupOf(right, at) : TOP;
    if (high - low > 1) return key + digits(low + 1 + random(Math.min(STEP, high - low - 1)));
    key += digits(low);
    if (low < high) bounded = false; // it is before `right` already, whatever follows
  }
}
