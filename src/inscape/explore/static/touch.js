// The first part of the page: a sentence, its latent, what happens to the sentence when the latent is touched.

import { can, encode, paraphrase, read, sample } from "./backend.js";
import { afterPause, complaints, newestOnly } from "./asking.js";
import { Latent } from "./latent.js";
import { drawAttention, drawChannel, drawComposite, drawCursor } from "./picture.js";
import { drawSpectrum, short } from "./plots.js";
import { drawScene } from "./scene.js";

const $ = (id) => document.getElementById(id);
const OTHER_STARTS = ["a dog runs over the grass", "two people sit on a bench"];
const STARTS = [
  "a red ball is on the blue block",
  "two small green cones are next to the large yellow cylinder",
  "a purple star is inside the white ring and three orange rods are left of the black plate",
  "the brown pyramid is in front of a gray cylinder",
];

let about;
let latent;
let shown = 0; // the channel on the large canvas; -1 for all at once
let words = [];
let grid = [1, 1]; // rows and columns of patches
let pointed = -1; // the word whose attention is shown
let generation = 0; // of what was encoded: an answer about an earlier one is dropped
let stroke = null; // the last pixel of a stroke that is being drawn
let cursor = null; // where the tool stands
let byKeyboard = false; // only then is it drawn
let seed = 0;

const starts = () => (about.scenes ?? about.grammar ? STARTS : OTHER_STARTS);

export function startTouch(codec) {
  about = codec;
  latent = new Latent(codec.shape);
  buildChannels();
  listen();
  draw();
  $("sentence").value = starts()[0];
  return write();
}

// --- the sentence ---

const sentenceTrouble = () => complaints($("sentence-problem"), $("sentence"));

const write = newestOnly(async () => {
  const [sentence, asked] = [$("sentence").value, generation];
  try {
    const answer = await encode(sentence);
    if (asked !== generation) return; // a picture was drawn out of noise meanwhile
    begin(answer.latent, answer.warning ?? "");
    said("");
    show({ ...answer, cosine: 1, difference: answer.difference });
    seed = 0;
    if (can.paraphrase) sayOtherwise();
  } catch (error) {
    if (asked !== generation) return;
    sentenceTrouble().say(error);
    forgetParaphrases();
  }
});

// Another picture: what was said of the last one goes.
function begin(values, warning) {
  sentenceTrouble().clear();
  $("sentence-warning").textContent = warning;
  $("read-problem").textContent = "";
  forgetParaphrases();
  latent.begin(values);
  generation += 1;
  stroke = null;
}

function forgetParaphrases() {
  $("paraphrases").replaceChildren();
  $("paraphrase-problem").textContent = "";
}

// A picture that no sentence made: what is read off it takes the sentence's place.
const drawFromNoise = newestOnly(async () => {
  const before = $("sentence").value;
  try {
    const answer = await sample(Math.floor(Math.random() * 2 ** 32));
    if (before !== $("sentence").value) return; // typed at meanwhile
    $("sentence").value = answer.reading.sentence;
    begin(answer.latent, "");
    said("Drawn out of noise by the latent prior; the sentence is what the picture says.");
    show({ ...answer, cosine: 1, difference: [] });
  } catch (error) {
    if (before === $("sentence").value) sentenceTrouble().say(error);
  }
});

const sayOtherwise = afterPause(500, newestOnly(async () => {
  const sentence = $("sentence").value;
  try {
    const answer = await paraphrase(sentence, 5, seed);
    if (sentence !== $("sentence").value) return;
    const rows = answer.paraphrases.map(({ text, cosine }) => {
      const row = document.createElement("li");
      const number = document.createElement("output");
      number.textContent = ` ${cosine.toFixed(3)}`;
      row.append(text, number);
      return row;
    });
    $("paraphrases").replaceChildren(...rows);
    $("paraphrase-problem").textContent = answer.warnings.join("; ");
  } catch (error) {
    if (sentence === $("sentence").value) $("paraphrase-problem").textContent = error.message;
  }
}));

// --- what is read ---

const reread = newestOnly(async () => {
  const asked = generation;
  try {
    const answer = await read(latent.values, latent.original);
    if (asked !== generation) return;
    $("read-problem").textContent = "";
    show(answer);
  } catch (error) {
    if (asked === generation) $("read-problem").textContent = error.message;
  }
});

function show({ reading, difference, cosine, statistics }) {
  words = reading.words;
  grid = reading.grid;
  pointed = -1;
  const changed = new Set();
  let at = 0;
  for (const part of difference ?? []) {
    const length = part.now ? part.now.split(" ").length : 0;
    if (part.kind !== "same") for (let i = at; i < at + length; i++) changed.add(i);
    at += length;
  }
  $("said").replaceChildren(...reading.words.flatMap((word, i) => [wordOf(word, i, changed.has(i)), " "]));
  if (!reading.words.length) $("said").textContent = "(nothing)";
  $("change").replaceChildren(...changes(difference ?? []));
  $("cosine").value = cosine;
  $("cosine-said").textContent = cosine.toFixed(3);
  tell(`${reading.sentence || "nothing"}; cosine ${cosine.toFixed(2)}`);
  $("scene-now").hidden = !about.grammar;
  if (about.grammar) drawScene($("scene-now"), reading.scene, "What the picture says");
  if (statistics) showStatistics(statistics);
  draw();
}

function wordOf(word, i, changed) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = changed ? "word changed" : "word";
  element.textContent = word.text;
  const more = document.createElement("span");
  more.className = "unseen";
  more.textContent = `${changed ? ", changed" : ""}, ${whereRead(word)}`;
  element.append(more);
  const on = () => point(i);
  const off = () => point(-1);
  element.addEventListener("pointerenter", on);
  element.addEventListener("focus", on);
  element.addEventListener("pointerleave", off);
  element.addEventListener("blur", off);
  return element;
}

// For those who do not see the canvas: the patch that the word looked at most.
function whereRead({ attention, on_z: onZ }) {
  const most = attention.indexOf(Math.max(...attention));
  const place = `read most from row ${Math.floor(most / grid[1]) + 1} of ${grid[0]}, column ${(most % grid[1]) + 1} of ${grid[1]}`;
  return onZ > 0.05 ? `${place}, ${Math.round(100 * onZ)} percent from the embedding` : place;
}

// Spoken once the hand rests, and not at every step of a stroke.
const tell = afterPause(800, (text) => { $("told").textContent = text; });

function changes(difference) {
  const parts = [];
  for (const { kind, was, now } of difference) {
    if (kind === "same") continue;
    if (parts.length) parts.push("; ");
    if (was) parts.push(Object.assign(document.createElement("del"), { textContent: was }));
    if (was && now) parts.push(" → ");
    if (now) parts.push(Object.assign(document.createElement("ins"), { textContent: now }));
  }
  return parts.length ? [latent.touched ? "Changed: " : "Read otherwise: ", ...parts] : [];
}

function point(i) {
  pointed = i;
  draw();
}

function showStatistics({ log_frequency: logFrequency, channels }) {
  const boxes = channels.map((channel, c) => {
    const box = document.createElement("div");
    const title = Object.assign(document.createElement("h4"), { textContent: `Channel ${c + 1}` });
    const list = document.createElement("dl");
    const judged = about.bands.spectral_slope ? "" : "none at this size";
    for (const [name, label] of [["spectral_slope", "Slope"], ["gradient_kurtosis", "Kurtosis of differences"], ["haar_sparsity", "Sparsity"]]) {
      const { low, high } = about.bands[name] ?? {};
      const value = channel[name];
      if (judged) {
        list.append(Object.assign(document.createElement("dt"), { textContent: label }), Object.assign(document.createElement("dd"), { textContent: short(value) }));
        continue;
      }
      const inside = value !== null && value >= low && value <= high;
      const term = Object.assign(document.createElement("dt"), { textContent: `${label} (photographs ${low} to ${high})` });
      const figure = Object.assign(document.createElement("dd"), { textContent: `${short(value)} ${inside ? "✓" : "✗"}`, className: inside ? "in" : "out" });
      list.append(term, figure);
    }
    box.append(title, drawSpectrum(logFrequency, channel, about.bands.spectral_slope), list);
    return box;
  });
  $("spectra").replaceChildren(...boxes);
}

// --- pictures ---

function buildChannels() {
  const names = [...Array(about.shape[0]).keys()].map((c) => [c, `${c + 1}`]);
  const buttons = [...names, [-1, "all"]].map(([c, name]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.channel = c;
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    button.append(canvas, name);
    button.setAttribute("aria-label", c < 0 ? "All channels as colours" : `Channel ${name}`);
    button.addEventListener("click", () => {
      shown = c;
      draw();
    });
    return button;
  });
  $("channels").replaceChildren(...buttons);
}

function draw() {
  const [channels, height, width] = about.shape;
  for (const button of $("channels").children) {
    const c = Number(button.dataset.channel);
    button.setAttribute("aria-pressed", String(c === shown));
    if (c < 0) drawComposite(button.firstChild, latent.values, channels, height, width);
    else drawChannel(button.firstChild, latent.channel(c), height, width);
  }
  const canvas = $("canvas");
  const plane = latent.channel(Math.max(0, shown));
  if (pointed >= 0 && words[pointed]) drawAttention(canvas, plane, height, width, words[pointed], grid);
  else if (shown < 0) drawComposite(canvas, latent.values, channels, height, width);
  else drawChannel(canvas, plane, height, width);
  if (byKeyboard && document.activeElement === canvas) drawCursor(canvas, cursor.x, cursor.y);
  $("canvas-title").textContent = shown < 0 ? "All channels" : `Channel ${shown + 1} of ${channels}`;
  enable("undo", latent.past.length);
  enable("redo", latent.future.length);
  enable("reset", latent.touched);
}

// Not `disabled`: a button that has the focus would lose it, and with it whoever moves by keyboard their place.
const enable = (id, yes) => $(id).setAttribute("aria-disabled", String(!yes));

// --- touching ---

const targets = () => (shown < 0 || $("all-channels").checked ? [...Array(about.shape[0]).keys()] : [shown]);
const said = (text) => { $("done").textContent = text; };

function change(text, act) {
  latent.remember();
  act();
  said(text);
  draw();
  reread();
}

function dab(x, y) {
  const tool = document.querySelector("input[name=tool]:checked").value;
  latent.dab(tool, targets(), x, y, Number($("size").value), Number($("level").value));
  draw();
  reread();
}

const WHOLE = {
  left: ["Shifted left", () => latent.shift(targets(), -1, 0)],
  right: ["Shifted right", () => latent.shift(targets(), 1, 0)],
  up: ["Shifted up", () => latent.shift(targets(), 0, -1)],
  down: ["Shifted down", () => latent.shift(targets(), 0, 1)],
  blur: ["Blurred", () => latent.blur(targets())],
  shuffle: ["Patches shuffled", () => latent.shuffle(targets(), about.patch)],
  noise: ["Noise added", () => latent.noise(targets(), Number($("noise").value))],
};

function back(act, text) {
  if (!act()) return;
  said(text);
  draw();
  reread();
}

function listen() {
  $("write").addEventListener("submit", (event) => event.preventDefault());
  $("sentence").addEventListener("input", write);
  let next = 0;
  $("another").addEventListener("click", () => {
    const all = starts();
    next = (next + 1) % all.length;
    $("sentence").value = all[next];
    write();
  });
  $("draw").hidden = !about.samples;
  $("draw").addEventListener("click", () => drawFromNoise());
  $("more").addEventListener("click", () => {
    seed += 1;
    sayOtherwise();
  });
  for (const [range, output] of [["size", "size-said"], ["level", "level-said"], ["noise", "noise-said"]]) {
    $(range).addEventListener("input", () => { $(output).textContent = range === "level" ? Number($(range).value).toFixed(1) : $(range).value; });
  }
  for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => change(...WHOLE[button.dataset.do]));
  $("undo").addEventListener("click", () => back(() => latent.undo(), "Taken back"));
  $("redo").addEventListener("click", () => back(() => latent.redo(), "Done again"));
  $("reset").addEventListener("click", () => {
    if (latent.touched) change("As it was encoded", () => latent.values.set(latent.original));
  });
  $("donate").addEventListener("submit", (event) => {
    event.preventDefault();
    swapIn();
  });
  listenToCanvas();
  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLInputElement && event.target.type === "text";
    if (typing || !(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || $("touch").hidden) return;
    event.preventDefault();
    if (event.shiftKey) back(() => latent.redo(), "Done again");
    else back(() => latent.undo(), "Taken back");
  });
}

async function swapIn() {
  if ($("swap").getAttribute("aria-disabled") === "true") return; // one is on its way
  const trouble = complaints($("donor-problem"), $("donor"));
  const [channels, asked] = [targets(), generation]; // as they were when it was asked for
  enable("swap", false);
  try {
    const other = await encode($("donor").value);
    trouble.clear();
    $("donor-warning").textContent = other.warning ?? "";
    if (asked !== generation) return;
    const name = channels.length > 1 ? "All channels" : `Channel ${channels[0] + 1}`;
    change(`${name} of “${other.sentence}” swapped in`, () => latent.swap(channels, other.latent));
  } catch (error) {
    trouble.say(error);
  } finally {
    enable("swap", true);
  }
}

function listenToCanvas() {
  const canvas = $("canvas");
  const pixel = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (part, size, count) => Math.min(count - 1, Math.max(0, Math.floor((part / size) * count)));
    return { x: at(event.clientX - box.left, box.width, about.shape[2]), y: at(event.clientY - box.top, box.height, about.shape[1]) };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    byKeyboard = false;
    latent.remember();
    stroke = cursor = pixel(event);
    dab(stroke.x, stroke.y);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke) return;
    const here = pixel(event);
    const from = stroke;
    const steps = Math.max(Math.abs(here.x - from.x), Math.abs(here.y - from.y));
    for (let i = 1; i <= steps; i++) dab(Math.round(from.x + ((here.x - from.x) * i) / steps), Math.round(from.y + ((here.y - from.y) * i) / steps));
    stroke = cursor = here;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { stroke = null; });
  canvas.addEventListener("focus", () => {
    byKeyboard = canvas.matches(":focus-visible");
    cursor ??= { x: Math.floor(about.shape[2] / 2), y: Math.floor(about.shape[1] / 2) };
    draw();
  });
  canvas.addEventListener("blur", draw);
  canvas.addEventListener("keydown", (event) => {
    byKeyboard = true;
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (event.key === " ") change(`Tool used at column ${cursor.x + 1}, row ${cursor.y + 1}`, () => dab(cursor.x, cursor.y));
    else if (dx || dy) {
      cursor = { x: Math.min(about.shape[2] - 1, Math.max(0, cursor.x + dx)), y: Math.min(about.shape[1] - 1, Math.max(0, cursor.y + dy)) };
      $("cursor-said").textContent = `Column ${cursor.x + 1}, row ${cursor.y + 1}`;
      draw();
    } else return;
    event.preventDefault();
  });
}
