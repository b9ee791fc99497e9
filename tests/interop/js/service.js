"use strict";
// A service that knows nothing of natsbridge.
//
// Options: url; name. Below the subject that its name is there are the endpoints "echo" and "failing". Tells "ready" with its
// id. Takes the order "stop".

const { connect } = require("@nats-io/transport-node");
const { Svcm } = require("@nats-io/services");
const { options, orders, tell } = require("./lines");

const given = options();

async function main() {
  const nc = await connect({ servers: given.url });
  const service = await new Svcm(nc).add({
    name: given.name,
    version: "4.5.6",
    description: "made in JavaScript",
    metadata: { language: "js" },
    statsHandler: async () => ({ answered: true }),
  });
  const group = service.addGroup(given.name);
  group.addEndpoint("echo", {
    handler: (_err, msg) => msg.respond(msg.data),
    metadata: { format: "text" },
  });
  group.addEndpoint("failing", (_err, msg) => msg.respondError(409, "taken", "details"));
  await nc.flush();
  tell("ready", { id: service.info().id });
  for await (const order of orders()) {
    await service.stop();
    tell("answer", { ask: order.ask });
  }
  await nc.close();
}

main();
