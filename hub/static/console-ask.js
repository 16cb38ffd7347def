// Questions before something happens, and what has happened.

import { $ } from "./dom.js";

const TOLD_FOR = 6_000;

let timer = null;

// Resolves to whether the answer was yes.
export function ask({ title, text, yes }) {
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-yes").textContent = yes;
  $("ask").returnValue = "no";
  $("ask").showModal();
  return new Promise((resolve) => {
    $("ask").onclose = () => resolve($("ask").returnValue === "yes");
  });
}

export function tell(text) {
  clearTimeout(timer);
  $("told").textContent = text;
  timer = setTimeout(() => ($("told").textContent = ""), TOLD_FOR);
}
