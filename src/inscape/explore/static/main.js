// The page: which part of it is open, and the start of each.

import { can, codec } from "./backend.js";
import { openRuns } from "./runs.js";
import { startTouch } from "./touch.js";
import { openTwo, startTwo } from "./two.js";

const PARTS = { touch: () => {}, two: openTwo, runs: openRuns };
let started = false; // whether the codec is there; runs need none

function open() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const part = Object.hasOwn(PARTS, name) && can[name] !== false ? name : "touch";
  for (const other of Object.keys(PARTS)) document.getElementById(other).hidden = other !== part;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${part}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `inscape: ${document.getElementById(`${part}-title`).textContent}`;
  if (started || part === "runs") PARTS[part](rest.map(decoded).join("/"));
}

function decoded(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // no encoding at all: the server says that there is no such run
  }
}

async function start() {
  for (const element of document.querySelectorAll("[data-needs]")) if (!can[element.dataset.needs]) element.hidden = true;
  addEventListener("hashchange", () => {
    open();
    document.getElementById("main").focus();
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // its address would open another part
    document.getElementById("main").focus();
  });
  open();
  try {
    const about = await codec();
    document.getElementById("weights").textContent = `${about.weights}, ${about.shape.join(" × ")}`;
    startTwo(about);
    await startTouch(about);
    started = true;
    if (!document.getElementById("two").hidden) openTwo();
  } catch (error) {
    document.getElementById("weights").textContent = ""; // it may say that the codec is being loaded
    for (const name of ["sentence-problem", "two-problem"]) document.getElementById(name).textContent = error.message;
  }
  document.documentElement.dataset.ready = "yes";
}

start();
