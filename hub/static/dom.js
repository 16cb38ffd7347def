// The elements of the page.

export const $ = (id) => document.getElementById(id);

export function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

// What is hidden loses the focus, and whoever uses the keyboard would begin at the top.
export function hide(id) {
  const within = $(id).contains(document.activeElement);
  $(id).hidden = true;
  if (within) focusText();
}

// On a touch screen the focus brings up the keyboard, over half of the page.
export function focusText() {
  if (matchMedia("(hover: hover)").matches) $("text").focus();
}

export function onSubmit(id, action) {
  $(id).onsubmit = (event) => {
    event.preventDefault();
    action();
  };
}
