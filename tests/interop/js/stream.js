"use strict";
// The requester's end of one stream in natsbridge's stream protocol, version 1: see docs/protocol.md.

const { createInbox, headers } = require("@nats-io/transport-node");

const ACK_DELAY = 100; // milliseconds that a consumed chunk may stay un-acknowledged
const CONFIRM_AFTER = 10; // milliseconds between a first 503 and the probe whose 503 confirms it
const MAX_PROBES = 3;
const MAX_NAKS = 5; // for one chunk
const TICK = 25;
const REPLY = /^(.+\.[0-9a-f]{24})\.([abdpe])(0|[1-9][0-9]{0,15})$/;

class Stream {
  constructor(nc, subject, data, { window = 4096, bytes = 1024 * 1024, timeout, probeInterval = 2000 } = {}) {
    Object.assign(this, { nc, window, bytes, probeInterval });
    this.control = this.reply = ""; // the responder's control prefix, and its newest reply subject
    this.received = this.consumed = this.acked = this.unackedBytes = 0;
    this.ended = null; // { reason, code, description, library } once the stream is over
    this.counts = { batches: 0, acks: 0, naks: 0, probesHeard: 0, probesSent: 0 };
    this.chunks = [];
    this.wake = () => {};
    // Counts running time only: our own standstill must not be taken for the responder's silence.
    this.clock = this.heard = this.probed = this.ackedAt = 0;
    this.probes = this.naked = this.naks = 0;
    this.suspected = null; // when a 503 came that nothing has contradicted since
    this.inbox = createInbox();
    this.subscription = nc.subscribe(this.inbox, { callback: (_error, msg) => this.receive(msg) });
    const asked = headers();
    const limit = timeout === undefined ? "" : `; timeout=${timeout}`;
    asked.set("Natsbridge-Stream", `v=1; window=${window}; bytes=${bytes}${limit}; probe=${probeInterval}`);
    nc.publish(subject, data, { reply: this.inbox, headers: asked });
    this.ticked = performance.now();
    this.ticker = setInterval(() => this.tick(), TICK);
  }

  // -- the reader: chunks in order, each exactly once; see "ended" for how it ended

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.chunks.length === 0) {
        if (this.ended) return;
        await new Promise((resolve) => (this.wake = resolve));
      }
      yield this.take();
    }
  }

  take() {
    const chunk = this.chunks.shift();
    if (this.consumed === this.acked) this.ackedAt = this.clock; // the delay counts from the first un-acknowledged one
    this.consumed += 1;
    this.unackedBytes += chunk.length;
    const due = 2 * (this.consumed - this.acked) >= this.window || 2 * this.unackedBytes >= this.bytes;
    if (due && !this.ended) this.ack();
    return chunk;
  }

  cancel() {
    if (this.ended) return;
    if (this.control) this.say("cancel");
    this.finish({ reason: "cancelled" });
  }

  // -- what comes from the responder

  receive(msg) {
    if (this.ended) return;
    if (msg.data.length === 0 && msg.headers?.code === 503) return this.nobodyThere();
    const match = REPLY.exec(msg.reply ?? "");
    if (!match) return this.onUnnumbered(msg.headers);
    const [, control, kind, digits] = match;
    const seq = Number(digits);
    if (!this.control) {
      if (!msg.headers?.has("Natsbridge-Stream") && !msg.headers?.has("Natsbridge-Error")) return; // a plain responder
      this.bind(control, msg.headers.get("Natsbridge-Stream"));
    } else if (control !== this.control) {
      this.nc.publish(msg.reply, "cancel"); // a second responder: one is enough
      return;
    }
    this.reply = msg.reply;
    this.heard = this.clock;
    this.probes = 0;
    this.suspected = null;
    if (kind === "d") this.store(seq, [msg.data]);
    else if (kind === "b") this.store(seq, unpack(msg.data));
    else if (kind === "p") this.onProbe(seq);
    else if (kind === "e") this.onEnd(seq, msg.headers);
  }

  bind(control, params) {
    this.control = control;
    const granted = Object.fromEntries(params.split(";").map((part) => part.trim().split("=")));
    if (granted.window) this.window = Math.min(this.window, Number(granted.window));
    if (granted.bytes) this.bytes = Math.min(this.bytes, Number(granted.bytes));
    this.probeInterval = Math.max(this.probeInterval, Number(granted.probe ?? 2000));
  }

  store(seq, chunks) {
    if (chunks === null) return; // as if it had been lost
    this.counts.batches += chunks.length > 1 ? 1 : 0;
    if (seq > this.received + 1) return this.nak(false);
    const fresh = chunks.slice(this.received + 1 - seq);
    if (fresh.length === 0) return this.ack();
    this.received += fresh.length;
    this.chunks.push(...fresh);
    this.wake();
  }

  onProbe(seq) {
    this.counts.probesHeard += 1;
    if (seq > this.received) this.nak(true);
    else this.ack();
  }

  onEnd(seq, found) {
    const library = found?.get("Natsbridge-Error") || null;
    if (seq > this.received && !library) return this.nak(true);
    this.say(`ack ${seq + 1}`);
    if (found?.has("Nats-Service-Error")) this.fail(found);
    else this.finish({ reason: "completed" });
  }

  // A responder that does not know the stream says so without a number; anything else is foreign.
  onUnnumbered(found) {
    if (this.control && found?.has("Nats-Service-Error") && found.has("Natsbridge-Error")) this.fail(found);
  }

  fail(found) {
    const code = Number(found.get("Nats-Service-Error-Code")) || 500;
    const library = found.get("Natsbridge-Error") || null;
    this.finish({ reason: "error", code, description: found.get("Nats-Service-Error"), library });
  }

  nobodyThere() {
    if (!this.control) return this.finish({ reason: "no_responders" });
    if (this.suspected === null) {
      this.suspected = performance.now();
      setTimeout(() => this.suspected !== null && !this.ended && this.ack(), CONFIRM_AFTER);
    } else if (performance.now() - this.suspected >= CONFIRM_AFTER - 1) {
      this.finish({ reason: "lost" });
    }
  }

  // -- what goes to the responder

  say(text, probe = false) {
    this.nc.publish(this.reply, text, probe ? { reply: this.inbox } : {});
  }

  ack() {
    this.counts.acks += 1;
    this.acked = this.consumed;
    this.unackedBytes = 0;
    this.say(`ack ${this.consumed}`, true);
  }

  nak(repeat) {
    const expected = this.received + 1;
    if (expected !== this.naked) [this.naked, this.naks] = [expected, 0];
    else if (!repeat) return; // asked for already
    if (this.naks === MAX_NAKS) {
      this.say("cancel");
      return this.finish({ reason: "gap" });
    }
    this.naks += 1;
    this.counts.naks += 1;
    this.say(`nak ${expected}`, true);
  }

  tick() {
    const now = performance.now();
    this.clock += Math.min(now - this.ticked, 2 * TICK);
    this.ticked = now;
    if (!this.control) return;
    if (this.clock - Math.max(this.heard, this.probed) >= this.probeInterval) {
      if (this.probes >= MAX_PROBES) return this.finish({ reason: "lost" });
      this.probes += 1;
      this.counts.probesSent += 1;
      this.probed = this.clock;
      this.ack();
    } else if (this.consumed > this.acked && this.clock - this.ackedAt >= ACK_DELAY) {
      this.ack();
    }
  }

  finish(ended) {
    this.ended = { code: null, description: null, library: null, ...ended };
    clearInterval(this.ticker);
    this.subscription.unsubscribe();
    this.wake();
  }
}

// The chunks of a batch, each behind its length in four bytes; null when the lengths do not add up.
function unpack(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const chunks = [];
  let at = 0;
  while (at + 4 < data.length) {
    const start = at + 4;
    at = start + view.getUint32(at);
    if (at === start || at > data.length) return null;
    chunks.push(data.subarray(start, at));
  }
  return at === data.length && chunks.length > 0 ? chunks : null;
}

exports.Stream = Stream;
