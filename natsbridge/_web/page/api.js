// What the pages ask of the gateway, and what time it is there.

const SAMPLES = 20;
const samples = [];

export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Error("The gateway does not answer. Is “natsbridge demo --web” still running in its terminal?");
  }
  const text = await response.text();
  if (response.ok) return text;
  let said;
  try {
    said = JSON.parse(text).error;
  } catch {
    said = `the gateway answered with status ${response.status}`;
  }
  throw new Error(said);
}

export async function post(path, value = {}) {
  const text = await ask(path, { method: "POST", body: JSON.stringify(value) });
  return text && JSON.parse(text);
}

export async function getState() {
  const sent = performance.now();
  const state = JSON.parse(await ask("state"));
  const received = performance.now();
  samples.push({ took: received - sent, offset: state.now * 1000 - (sent + received) / 2 });
  if (samples.length > SAMPLES) samples.shift();
  return state;
}

// The gateway's clock, in seconds: by the answer that came fastest, which is wrong by half of what it took at most.
export function now() {
  const best = samples.reduce((one, other) => (other.took < one.took ? other : one));
  return (performance.now() + best.offset) / 1000;
}

// Only for the table. It arrives even if the page is about to be gone.
export function tellLeft(key, how) {
  navigator.sendBeacon("left", JSON.stringify({ key, how, at: now() }));
}

// When another page is loaded, Chrome has ended the streams before "pagehide"; when a tab is closed, not every browser sends
// "beforeunload".
export function whenLeft(tell) {
  addEventListener("beforeunload", tell);
  addEventListener("pagehide", tell);
}
