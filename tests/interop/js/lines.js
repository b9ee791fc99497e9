"use strict";
// How the programs talk to the test that started them: one JSON object a line, in both directions.

const crypto = require("node:crypto");
const fs = require("node:fs");
const readline = require("node:readline");

// The program's one argument.
exports.options = () => JSON.parse(process.argv[2]);

// Say what happened; "at" is the time of the clock that all processes share, in seconds.
exports.tell = (event, facts = {}) => {
  const at = Number(process.hrtime.bigint()) / 1e9;
  fs.writeSync(1, JSON.stringify({ event, at, ...facts }) + "\n");
};

// What the test wants done, until it closes the pipe.
exports.orders = async function* () {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    yield JSON.parse(line);
  }
};

// What identifies a chunk of any size.
exports.digest = (data) => crypto.createHash("sha256").update(data).digest("hex");

// A message's headers as an object, null without any.
exports.headersOf = (msg) =>
  msg.headers ? Object.fromEntries(msg.headers.keys().map((key) => [key, msg.headers.get(key)])) : null;
