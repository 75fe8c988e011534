// The page: which part of it is open, and the start of each.

import { can, codec } from "./backend.js";
import { openRuns } from "./runs.js";
import { startTouch } from "./touch.js";
import { openTwo, startTwo } from "./two.js";

const PARTS = { touch: () => {}, two: openTwo, runs: openRuns };
let started = false;

function open() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const part = name in PARTS && can[name] !== false ? name : "touch";
  for (const other of Object.keys(PARTS)) document.getElementById(other).hidden = other !== part;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${part}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `inscape: ${document.getElementById(`${part}-title`).textContent}`;
  if (started || part === "runs") PARTS[part](rest.map(decodeURIComponent).join("/"));
}

async function start() {
  for (const element of document.querySelectorAll("[data-needs]")) if (!can[element.dataset.needs]) element.hidden = true;
  addEventListener("hashchange", () => {
    open();
    document.getElementById("main").focus();
  });
  open();
  try {
    const about = await codec();
    document.getElementById("weights").textContent = `${about.weights}, ${about.shape.join(" × ")}`;
    startTwo(about);
    await startTouch(about);
    started = true;
    open();
  } catch (error) {
    document.getElementById("sentence-problem").textContent = error.message;
  }
  document.documentElement.dataset.ready = "yes";
}

start();
