// The card of a call: its data, and what came back.

import { card, faultLine, jsonField, Log, note, now, parsed, refusal } from "./asyncapi-parts.js";
import { schemaTables, typeText } from "./asyncapi-schema.js";
import { element } from "./render.js";

export function callCard({ hub, method, about, request, reply, schemas }) {
  const takes = request.payload.type !== "null";
  const { field, block } = jsonField("Data", request.examples?.[0].payload ?? (takes ? {} : null));
  const fault = faultLine();
  const log = new Log("Answers", "entries answer");
  log.list.hidden = true;
  const button = element("button", { type: "submit", className: "main" }, "Call");
  const form = element("form", { className: "fields" }, ...(takes ? [block] : []), element("div", { className: "joined" }, button), fault);
  form.onsubmit = async (event) => {
    event.preventDefault();
    const data = takes ? parsed(field, fault) : null;
    if (data === undefined) return;
    fault.textContent = "";
    try {
      const answer = await hub.rpc(method, takes ? data : undefined);
      log.list.hidden = false;
      log.add(now(), answer ?? null);
    } catch (error) {
      fault.textContent = refusal(error);
    }
  };
  const models = [["Data", request], ["Answer", reply]].map(([title, { payload }]) =>
    element("div", {}, element("h4", {}, title), ...schemaTables(payload, schemas)),
  );
  const tried = element("div", { className: "try" }, element("div", {}, form, log.list), element("div", {}, ...models));
  return card(method, `${takes ? typeText(request.payload) : "()"} → ${typeText(reply.payload)}`, ...(about ? [note(about)] : []), tried);
}
