// Prints what the official parser has to say about each document of a list, as JSON.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const parser = new Parser();

async function check(content) {
  const { document, diagnostics } = await parser.parse(JSON.stringify(content));
  const faults = diagnostics.map(({ code, message, path, severity }) => ({ code, message, severity, path: path.join(".") }));
  return { parsed: document !== undefined, faults };
}

const found = [];
for (const content of JSON.parse(readFileSync(0, "utf8"))) found.push(await check(content));
console.log(JSON.stringify(found));
