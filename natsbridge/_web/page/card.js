// One stream, and the card that shows it.

import { post, tellLeft } from "./api.js";

const QUIET = 1.5; // seconds without a word after which a stream counts as silent

const NAMES = { starting: "starting", running: "running", completed: "complete", stopped: "stopped", failed: "broken" };

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

export class Card {
  // onChange(card): the stream's state has changed.
  constructor(pace, place, onChange) {
    this.pace = pace;
    this.place = place;
    this.state = "starting";
    this.key = null;
    this.words = 0;
    this.onChange = onChange;
    this.build();
    this.show("starting");
  }

  get over() {
    return !["starting", "running"].includes(this.state);
  }

  build() {
    this.element = make("article", "card");
    this.title = make("h3", "", "A stream");
    this.pill = make("span", "pill");
    const head = make("div", "card-head");
    head.append(this.title, this.pill);
    this.question = make("p", "question");
    this.text = make("div", "text");
    this.text.tabIndex = 0;
    this.text.setAttribute("role", "region");
    this.note = make("p", "note");
    this.stopButton = make("button", "small", "Stop");
    this.stopButton.type = "button";
    this.stopButton.addEventListener("click", () => this.stop());
    const foot = make("div", "card-foot");
    foot.append(this.note, this.stopButton);
    this.element.append(head, this.question, this.text, foot);
  }

  async start() {
    try {
      const { key, number, question } = await post("streams", { pace: this.pace, place: this.place });
      this.key = key;
      this.number = number;
      this.title.textContent = `Stream ${number}`;
      this.question.textContent = question;
      this.text.setAttribute("aria-label", `Text of stream ${number}`);
      this.stopButton.setAttribute("aria-label", `Stop stream ${number}`);
    } catch (error) {
      this.finish("failed", error.message);
      return;
    }
    if (this.over) return; // stopped meanwhile
    this.source = new EventSource(`stream?key=${encodeURIComponent(this.key)}`);
    this.source.addEventListener("message", (event) => this.onWord(event.data));
    this.source.addEventListener("end", () => this.finish("completed", ""));
    this.source.addEventListener("error", (event) => this.onError(event));
    this.heardAt = performance.now();
    this.timer = setInterval(() => this.showCount(), 500);
  }

  onWord(word) {
    if (this.over) return;
    this.heardAt = performance.now();
    this.words += 1;
    const follows = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < 40;
    this.text.append(make("span", "word", word), " ");
    if (follows) this.text.scrollTop = this.text.scrollHeight;
    if (this.state === "starting") this.show("running");
    this.showCount();
  }

  onError(event) {
    if (this.over) return;
    // An event that the gateway sent has data; one of the browser's own says that the connection is lost.
    let said = "the connection to the gateway was lost";
    if (typeof event.data === "string") {
      try {
        said = JSON.parse(event.data).message;
      } catch {
        said = event.data;
      }
    }
    this.finish("failed", said);
  }

  stop() {
    if (this.over) return;
    this.source?.close();
    this.tellLeft("stopped");
    this.finish("stopped", "");
  }

  // The page is about to go, and the stream with it: that is the browser's work, here it is only said.
  tellLeft(how) {
    if (this.over || !this.key || this.left) return;
    this.left = true;
    tellLeft(this.key, how);
  }

  finish(state, problem) {
    if (this.over) return;
    this.source?.close();
    clearInterval(this.timer);
    this.problem = problem;
    const focused = document.activeElement === this.stopButton;
    this.stopButton.hidden = true;
    if (focused) this.text.focus({ preventScroll: true });
    this.show(state);
    this.showCount();
  }

  show(state) {
    this.state = state;
    this.element.dataset.state = state;
    this.pill.textContent = NAMES[state];
    this.onChange(this);
  }

  showCount() {
    const silent = Math.floor((performance.now() - this.heardAt) / 1000);
    const words = count(this.words, "word");
    const quiet = this.state === "running" && silent >= QUIET;
    this.element.toggleAttribute("data-quiet", quiet);
    this.pill.textContent = quiet ? "silent" : NAMES[this.state];
    if (quiet) {
      this.note.textContent = `${words}, then silent for ${silent} s`;
    } else {
      this.note.textContent = this.problem ? `${words}. ${sentence(this.problem)}` : words;
    }
  }

  // What the worker's table says of a stream that is over.
  showEnd(text) {
    if (this.state !== "failed") this.note.textContent = text;
  }
}

export function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.?!]$/.test(capital) ? capital : `${capital}.`;
}
