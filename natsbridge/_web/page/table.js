// The table of the worker's handlers.

const WENT = {
  stopped: "stopped by you",
  "tab-closed": "tab closed",
  "page-left": "page left",
};

const OTHER_ENDS = ["completed", "failed", "killed"]; // those that have nothing to do with the client

// Seconds from the client's going to the handler's end; null where there is no such thing.
export function lateness(record) {
  if (record.left_at === null || record.ended_at === null || OTHER_ENDS.includes(record.reason)) return null;
  return Math.max(0, record.ended_at - record.left_at);
}

export function milliseconds(seconds) {
  const value = seconds * 1000;
  return value < 1 ? "under 1 ms" : `${Math.round(value).toLocaleString("en")} ms`;
}

function client(record) {
  if (!record.reason) return record.place === "tab" ? "in its tab" : record.place === "page" ? "on this page" : "elsewhere";
  if (record.reason === "completed") return "read it all";
  if (record.reason === "killed") return "lost its worker";
  return WENT[record.left_how] ?? "gone";
}

class Row {
  constructor() {
    this.element = document.createElement("tr");
    this.number = document.createElement("th");
    this.number.scope = "row";
    [this.handler, this.client, this.late] = [0, 1, 2].map(() => document.createElement("td"));
    this.late.className = "number";
    this.told = false;
    this.element.append(this.number, this.handler, this.client, this.late);
  }

  update(record, now) {
    const seconds = ((record.ended_at ?? now) - record.started_at).toFixed(1);
    const late = lateness(record);
    this.element.dataset.state = record.reason ? (["killed", "failed"].includes(record.reason) ? "bad" : "ended") : "running";
    set(this.number, `${record.number}`);
    set(this.handler, `${record.reason ? "ran" : "running"} ${seconds} s`);
    set(this.client, client(record), record.reason ?? "");
    set(this.late, late === null ? "–" : milliseconds(late));
  }
}

function set(cell, text, code = "") {
  const wanted = `${text}|${code}`;
  if (cell.dataset.shows === wanted) return;
  cell.dataset.shows = wanted;
  cell.textContent = text;
  if (code) {
    const reason = document.createElement("code");
    reason.textContent = code;
    cell.append(" ", reason);
  }
}

export class Table {
  constructor(body, placeholder) {
    this.body = body;
    this.placeholder = placeholder;
    this.rows = new Map();
    this.records = [];
  }

  // Show the records, newest first; returns those that have ended since.
  update(records, now) {
    this.records = records;
    this.placeholder.hidden = records.length > 0;
    const keys = new Set(records.map(({ key }) => key));
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.element.remove();
      this.rows.delete(key);
    }
    const ended = [];
    for (const record of [...records].reverse()) {
      let row = this.rows.get(record.key);
      if (!row) {
        row = new Row();
        row.told = record.reason !== null && this.shownBefore !== true; // history, when the page is loaded
        this.rows.set(record.key, row);
        this.body.prepend(row.element);
      }
      row.update(record, now);
      // Its client's own word may be on the way still.
      const waits = record.left_at === null && !OTHER_ENDS.includes(record.reason) && now - record.ended_at < 1;
      if (record.reason && !row.told && !waits) {
        row.told = true;
        ended.push(record);
      }
    }
    this.shownBefore = true;
    return ended;
  }

  stats() {
    const late = this.records.map(lateness).filter((value) => value !== null).sort((one, other) => one - other);
    const middle = Math.floor(late.length / 2);
    return {
      lost: late.length,
      median: late.length ? (late.length % 2 ? late[middle] : (late[middle - 1] + late[middle]) / 2) : null,
      slowest: late.length ? late[late.length - 1] : null,
    };
  }
}
