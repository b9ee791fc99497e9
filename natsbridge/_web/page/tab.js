// The page that is one stream.

import { getState, whenLeft } from "./api.js";
import { Card } from "./card.js";

const asked = new URLSearchParams(location.search).get("pace");
const pace = asked === "silent" ? "silent" : "brisk";
const news = document.getElementById("news");

const card = new Card(pace, "tab", (changed) => {
  if (changed.number) document.title = `Stream ${changed.number}: ${changed.state === "running" ? "close me" : changed.state}`;
});
document.getElementById("cards").append(card.element);

whenLeft(() => card.tellLeft("tab-closed"));

try {
  for (let tries = 0; tries < 4; tries += 1) await getState(); // sets the clock
  await card.start();
} catch (error) {
  news.hidden = false;
  news.classList.add("bad");
  news.textContent = error.message;
}
