"use strict";
// Finds services and calls them, as a JavaScript program would.
//
// Options: url. Takes the orders "ping", "info" and "stats" (with name, and perhaps id), answered with what was "found", and
// "request" (with subject and data), answered with the reply's "data" and its "error", null without one.

const { connect } = require("@nats-io/transport-node");
const { ServiceError, Svcm } = require("@nats-io/services");
const { options, orders, tell } = require("./lines");

const given = options();

async function main() {
  const nc = await connect({ servers: given.url });
  const client = new Svcm(nc).client();
  tell("ready");
  for await (const order of orders()) {
    if (order.do === "request") {
      const msg = await nc.request(order.subject, order.data, { timeout: 20000 });
      const error = ServiceError.toServiceError(msg);
      tell("answer", {
        ask: order.ask,
        data: msg.string(),
        error: error && { code: error.code, message: error.message },
      });
      continue;
    }
    const found = [];
    for await (const one of await client[order.do](order.name, order.id)) {
      found.push(one);
    }
    tell("answer", { ask: order.ask, found });
  }
  await nc.close();
}

main();
