// Runs a compiled program: `node run.mjs FILE HUB`. Before version 22 Node has no WebSocket of its own.
import { pathToFileURL } from "node:url";
import WebSocket from "ws";

const [file, url] = process.argv.slice(2);
globalThis.WebSocket ??= WebSocket;
const { main } = await import(pathToFileURL(file));
const said = await main(url);
process.stdout.write(JSON.stringify(said), () => process.exit(0));
