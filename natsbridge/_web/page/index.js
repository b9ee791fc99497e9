// The page with the streams and the worker's table.

import { ask, getState, now, post, whenLeft } from "./api.js";
import { Card, count, sentence } from "./card.js";
import { Table, milliseconds, lateness } from "./table.js";

const POLL = 250; // milliseconds; a fetch each time, so that the table holds none of the connections that streams need
const LIMIT = 5; // a browser opens six connections to a host over HTTP/1.1: one is left for all the rest
const CARDS = 6;

const element = (id) => document.getElementById(id);
const cards = [];
const table = new Table(element("handlers"), element("no-handlers"));
let state = null;
let lost = false;

// -- what is happening, in a sentence

function tell(text, bad = false) {
  const news = element("news");
  news.textContent = text;
  news.classList.toggle("bad", bad);
}

const CLIENT = {
  stopped: (number) => `You stopped stream ${number}.`,
  "tab-closed": (number) => `The tab of stream ${number} was closed.`,
  "page-left": (number) => `The page with stream ${number} was left.`,
};

function tellEnd(record) {
  const late = lateness(record);
  if (record.reason === "completed") {
    tell(`Stream ${record.number} is complete: the worker sent ${count(record.words, "word")}, and its handler returned.`);
  } else if (late !== null) {
    tell(`${CLIENT[record.left_how](record.number)} Its handler in the worker ended ${milliseconds(late)} later.`);
  } else if (record.reason === "failed") {
    tell(`The handler of stream ${record.number} failed.`, true);
  } else if (record.reason !== "killed") {
    tell(`The client of stream ${record.number} is gone, and its handler has ended: ${record.reason}.`);
  }
}

function tellOfPrograms(before, after) {
  if (before.worker.pid && before.worker.pid !== after.worker.pid) {
    const broken = after.streams.filter((record) => record.pid === before.worker.pid && record.reason === "killed").length;
    const what = broken ? `, and ${count(broken, "answer")} with it: each stream will say that it is broken` : "";
    tell(`The worker, process ${before.worker.pid}, is dead${what}. Another one starts in a moment.`, true);
  } else if (after.worker.state === "ready" && before.worker.state !== "ready") {
    tell(`A new worker is there, process ${after.worker.pid}. Streams can be started again.`);
  }
  if (before.server.state === "up" && after.server.state === "restarting") {
    tell(`nats-server is restarting. The streams are kept for ${after.server.resume} s, and wait.`);
  } else if (before.server.state === "restarting" && after.server.state === "up") {
    const running = count(after.worker.running, "stream");
    tell(after.worker.running ? `nats-server is back, and ${running} went on without losing a word.` : "nats-server is back.");
  }
}

// -- what the gateway says

async function poll() {
  try {
    const fresh = await getState();
    if (lost) tell("The gateway answers again.");
    lost = false;
    show(fresh);
  } catch (error) {
    if (!lost) tell(error.message, true);
    lost = true;
  }
  document.body.classList.toggle("lost", lost);
  showControls();
  setTimeout(poll, POLL);
}

function show(fresh) {
  const before = state;
  state = fresh;
  for (const record of table.update(fresh.streams, now())) tellEnd(record);
  if (before) tellOfPrograms(before, fresh);
  for (const card of cards) {
    const record = fresh.streams.find(({ key }) => key === card.key);
    if (!record || !record.reason) continue;
    const late = lateness(record);
    if (late !== null) card.showEnd(`${count(card.words, "word")}. Handler ended after ${milliseconds(late)}.`);
  }
  const { gateway, server, worker } = fresh;
  element("running").textContent = worker.state === "ready" ? count(worker.running, "handler") : worker.state;
  element("worker").textContent = worker.pid ? `process ${worker.pid}` : "starts again in a moment";
  element("worker-node").dataset.state = worker.state;
  element("server").textContent = server.url.replace(/^.*[/@]/, "");
  element("server-state").textContent = server.state;
  element("server-node").dataset.state = server.state;
  element("gateway").textContent = `process ${gateway.pid}`;
  element("restart").hidden = !server.own;
  element("stat-running").textContent = worker.running;
  const stats = table.stats();
  element("stat-lost").textContent = stats.lost;
  element("stat-median").textContent = stats.median === null ? "–" : milliseconds(stats.median);
  element("stat-slowest").textContent = stats.slowest === null ? "–" : milliseconds(stats.slowest);
}

function openStreams() {
  const here = cards.filter((card) => !card.over).length;
  const elsewhere = state ? state.streams.filter((record) => !record.reason && record.place !== "page").length : 0;
  return here + elsewhere;
}

function showControls() {
  const open = openStreams();
  const full = open >= LIMIT;
  const idle = lost || !state;
  element("open-streams").textContent = count(open, "stream");
  element("chain").classList.toggle("flowing", open > 0 && !idle);
  element("start").disabled = full || idle;
  element("tab").classList.toggle("disabled", full || idle);
  element("tab").setAttribute("aria-disabled", String(full || idle));
  element("kill").disabled = idle || state.worker.state !== "ready";
  element("restart").disabled = idle || state.server.state !== "up";
  const pace = new FormData(element("controls")).get("pace");
  element("tab").href = `tab?pace=${pace}`;
  const about = {
    brisk: "Talkative: a word every 60 ms, as a language model would.",
    silent: "Silent: a few words, then nothing for a minute. No write can fail, and yet the worker will know.",
  };
  const hint = full ? `${LIMIT} streams are open. Browsers allow six connections to a host, and one is for the table.` : about[pace];
  if (element("hint").textContent !== hint) element("hint").textContent = hint;
  element("no-cards").hidden = cards.length > 0;
}

// -- what the user does

function startStream() {
  const pace = new FormData(element("controls")).get("pace");
  const card = new Card(pace, "page", (changed) => {
    if (changed.state === "running") tell(`Stream ${changed.number} is running: the worker sends, this page reads.`);
    if (changed.state === "failed") tell(`${changed.number ? `Stream ${changed.number}` : "The stream"} is broken. ${sentence(changed.problem)}`, true);
    if (cards.length) showControls();
  });
  cards.unshift(card);
  element("cards").prepend(card.element);
  while (cards.length > CARDS) {
    const oldest = cards.findLastIndex((other) => other.over);
    if (oldest < 0) break;
    cards.splice(oldest, 1)[0].element.remove();
  }
  showControls();
  card.start();
}

async function order(path) {
  try {
    await post(path);
  } catch (error) {
    tell(sentence(error.message), true);
  }
}

element("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  startStream();
});
element("controls").addEventListener("change", showControls);
element("tab").addEventListener("click", (event) => {
  if (element("tab").getAttribute("aria-disabled") === "true") event.preventDefault();
});
element("kill").addEventListener("click", () => order("worker/kill"));
element("restart").addEventListener("click", () => order("server/restart"));
whenLeft(() => cards.forEach((card) => card.tellLeft("page-left")));

ask("code").then((code) => {
  element("code").textContent = code;
});
poll();
