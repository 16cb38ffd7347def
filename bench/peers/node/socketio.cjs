// The peer: socket.io with its Redis adapter, the chat of its tutorial in one room.
// https://socket.io/docs/v4/redis-adapter/
"use strict";

const { createServer } = require("node:http");
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");
const { Server } = require("socket.io");

async function main() {
  const pubClient = createClient({ url: process.env.REDIS_URL });
  const subClient = pubClient.duplicate();
  await Promise.all([pubClient.connect(), subClient.connect()]);

  const server = createServer();
  const io = new Server(server, { adapter: createAdapter(pubClient, subClient) });
  io.on("connection", (socket) => {
    socket.join("room");
    socket.on("message", (data) => io.to("room").emit("message", data));
  });
  server.listen(Number(process.env.PORT), "127.0.0.1");
}

main();
