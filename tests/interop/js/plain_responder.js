"use strict";
// A responder that knows nothing of natsbridge: messages to the request's reply subject, then an empty one.
//
// Options: url; subject; name. Each request's payload says how it wants to be answered (see Plan in peers.py). Tells
// "ready", and "answered" for each request.

const { connect, headers } = require("@nats-io/transport-node");
const { setTimeout: sleep } = require("node:timers/promises");
const { options, tell } = require("./lines");

const given = options();

function withHeaders(values) {
  const made = headers();
  for (const [key, value] of Object.entries(values)) {
    made.set(key, value);
  }
  return { headers: made };
}

async function answer(msg) {
  const plan = msg.json();
  for (let number = 0; number < plan.total; number += 1) {
    if (number > 0 && plan.pause > 0) {
      await sleep(plan.pause * 1000);
    }
    const chunk = plan.signed ? `${given.name} ${number}` : `${number} `.padEnd(plan.size, ".");
    msg.respond(chunk, withHeaders({ Number: String(number) }));
  }
  if (plan.end === "empty") {
    msg.respond();
  } else if (plan.end === "error") {
    msg.respond("", withHeaders({ "Nats-Service-Error": "out of paper", "Nats-Service-Error-Code": "507" }));
  }
  tell("answered");
}

async function main() {
  const nc = await connect({ servers: given.url });
  const requests = nc.subscribe(given.subject);
  await nc.flush();
  tell("ready");
  for await (const msg of requests) {
    answer(msg); // many at a time
  }
}

main();
