"use strict";
// A requester that speaks natsbridge's stream protocol.
//
// Options: url; subject; data; stream: the options of Stream; hold: read only when told to; lose: the number of the message
// with chunks that shall get lost; tell_items: false to tell nothing of single chunks.
// Orders: "read" (n chunks), "cancel". Tells "ready", "item", "probe" for each that came, and "end" with counts and the
// digest of all chunks.

const crypto = require("node:crypto");
const { connect } = require("@nats-io/transport-node");
const { digest, options, orders, tell } = require("./lines");
const { Stream } = require("./stream");

const given = options();

class WatchedStream extends Stream {
  receive(msg) {
    const kind = /\.([bd])\d+$/.exec(msg.reply ?? "");
    if (kind) {
      this.messages = (this.messages ?? 0) + 1;
      if (this.messages === given.lose) return;
    }
    super.receive(msg);
  }

  onProbe(seq) {
    super.onProbe(seq);
    tell("probe", { n: this.counts.probesHeard });
  }
}

// Chunks that may be read now, as long as the test decides that.
const allowance = {
  left: given.hold ? 0 : Infinity,
  more: () => {},
  async use() {
    while (this.left === 0) await new Promise((resolve) => (this.more = resolve));
    this.left -= 1;
  },
  add(n) {
    this.left += n;
    this.more();
  },
};

async function obey(stream) {
  for await (const order of orders()) {
    if (order.do === "read") allowance.add(order.n);
    else if (order.do === "cancel") {
      stream.cancel();
      allowance.add(Infinity);
    }
  }
}

async function main() {
  const nc = await connect({ servers: given.url });
  const stream = new WatchedStream(nc, given.subject, given.data ?? "", given.stream);
  tell("ready");
  obey(stream);
  const all = crypto.createHash("sha256");
  let items = 0;
  await allowance.use();
  for await (const chunk of stream) {
    items += 1;
    all.update(chunk).update("\n");
    if (given.tell_items !== false) tell("item", { n: items, size: chunk.length, digest: digest(chunk) });
    await allowance.use();
  }
  tell("end", { items, digest: all.digest("hex"), ...stream.ended, ...stream.counts });
  await nc.close();
  process.exit(0); // the orders' pipe is still open
}

main();
