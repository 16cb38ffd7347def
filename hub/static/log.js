// The messages of a room on the screen, oldest first.

import { dayOf, element, messageItem, noticeItem } from "./render.js";

const GROUP_WITHIN = 5 * 60 * 1000;
const MOST_MESSAGES = 500;

export class Log {
  constructor(onShown) {
    this.onShown = onShown;
    this.list = element("ol", { className: "log" });
    // The latest message, for grouping; null after a notice.
    this.last = null;
    this.day = dayOf(Date.now());
    // Nobody looks: what others say goes under a line.
    this.away = false;
    this.line = element("li", { className: "unread" }, "New");
  }

  get isEmpty() {
    return this.list.childElementCount === 0;
  }

  show(message) {
    const { user, at, mine = false, raw = false } = message;
    this.turnDay(at);
    const { last } = this;
    const more = last !== null && last.user === user && last.mine === mine && last.raw === raw && at - last.at < GROUP_WITHIN;
    this.last = { user, mine, raw, at };
    const line = this.drawLine(mine);
    return this.append(messageItem({ ...message, more: more && !line }), mine);
  }

  // Whether the next message is the first under it. Who answers has read what is there.
  drawLine(mine) {
    if (mine) this.line.remove();
    if (mine || !this.away) return false;
    this.away = false;
    this.list.append(this.line);
    return true;
  }

  notice(text) {
    this.last = null;
    this.append(noticeItem(text), false);
  }

  remove(item) {
    item.remove();
    this.last = null;
  }

  // After what was said before it.
  moveToEnd(item) {
    this.list.append(item);
  }

  turnDay(at) {
    const day = dayOf(at);
    if (day !== this.day) this.notice(day);
    this.day = day;
  }

  append(item, mine) {
    this.list.append(item);
    // What is not delivered stays.
    while (this.list.childElementCount > MOST_MESSAGES) (this.list.querySelector("li:not(.waiting, .failed)") ?? item).remove();
    this.onShown(mine, item.classList.contains("notice"));
    return item;
  }
}
