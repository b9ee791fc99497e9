"use strict";
// A requester that knows nothing of natsbridge: requestMany of nats.js.
//
// Options: url; subject; headers; many: the options of requestMany; stop_after: leave the loop after so many messages.
// Tells "item" for each chunk, "sentinel" for an empty message, then "end" or "error". The order "close", or the end of
// the orders, makes it close its connection.

const { connect, headers } = require("@nats-io/transport-node");
const { digest, headersOf, options, orders, tell } = require("./lines");

const given = options();

async function read(nc) {
  const sent = headers();
  for (const [key, value] of Object.entries(given.headers ?? {})) {
    sent.set(key, value);
  }
  let items = 0;
  let yielded = 0;
  for await (const msg of await nc.requestMany(given.subject, "", { ...given.many, headers: sent })) {
    yielded += 1;
    if (msg.data.length === 0) {
      tell("sentinel", { headers: headersOf(msg) });
      continue;
    }
    items += 1;
    tell("item", { n: items, size: msg.data.length, digest: digest(msg.data) });
    if (items === given.stop_after) {
      break;
    }
  }
  tell("end", { items, yielded });
}

async function main() {
  const nc = await connect({ servers: given.url });
  try {
    await read(nc);
  } catch (error) {
    tell("error", { name: error.name, message: error.message });
  }
  for await (const order of orders()) {
    if (order.do === "close") {
      break;
    }
  }
  await nc.close();
  tell("closed");
  process.exit(0); // the orders' pipe is still open
}

main();
