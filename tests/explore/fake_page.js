// As much of a browser's page as the page's scripts need, for node: elements by the ids of index.html, events by hand,
// and a backend whose answers the test gives when it likes. Waiting takes no time.

import { readFileSync } from "node:fs";

const soon = globalThis.setTimeout;
globalThis.setTimeout = (act, _milliseconds, ...words) => soon(act, 0, ...words);

export class Element {
  constructor(name = "") {
    Object.assign(this, { name, attributes: {}, dataset: {}, listeners: {}, children: [], told: [], value: "", hidden: false });
    this.classList = { toggle: () => {} };
    [this.width, this.height, this.painted] = [32, 32, false];
  }

  get textContent() {
    return this.children.map((child) => child.textContent ?? String(child)).join("");
  }

  set textContent(text) {
    this.children = text === "" ? [] : [String(text)];
    this.told.push(String(text));
  }

  get firstChild() { return this.children[0] ?? null; }
  get childElementCount() { return this.children.filter((child) => child instanceof Element).length; }

  append(...children) {
    for (const child of children) if (child instanceof Element) child.parent = this;
    this.children.push(...children);
  }

  replaceChildren(...children) {
    this.children = [];
    this.append(...children);
  }

  before(element) {
    element.parent = this.parent;
    this.parent.children.splice(this.parent.children.indexOf(this), 0, element);
  }

  setAttribute(name, value) { this.attributes[name] = String(value); }
  getAttribute(name) { return this.attributes[name] ?? null; }
  removeAttribute(name) { delete this.attributes[name]; }
  addEventListener(kind, act) { (this.listeners[kind] ??= []).push(act); }
  matches() { return false; }
  focus() {}

  happens(kind, event = {}) {
    for (const act of this.listeners[kind] ?? []) act({ preventDefault: () => {}, target: this, ...event });
  }

  getContext() {
    return {
      createImageData: (width, height) => ({ data: new Uint8ClampedArray(4 * width * height) }),
      getImageData: () => ({ data: [0, 0, 0, 255] }),
      fillRect: () => {},
      putImageData: () => { this.painted = true; },
      clearRect: () => { this.painted = false; },
    };
  }
}

const front = readFileSync(new URL("index.html", import.meta.url), "utf8");
const byId = new Map([...front.matchAll(/<(\w+)[^>]*? id="([^"]+)"/g)].map(([, name, id]) => [id, new Element(name)]));
for (const [, id] of front.matchAll(/ id="([^"]+)"[^>]*? hidden/g)) byId.get(id).hidden = true;
const chosen = Object.assign(new Element("input"), { value: "paint" });

globalThis.HTMLInputElement = class {};
globalThis.location = { hash: "" };
globalThis.addEventListener = () => {};
globalThis.document = {
  activeElement: null,
  documentElement: new Element("html"),
  getElementById: (id) => byId.get(id) ?? null,
  createElement: (name) => new Element(name),
  createElementNS: (_, name) => new Element(name),
  querySelector: () => chosen,
  querySelectorAll: () => [],
  addEventListener: () => {},
};

export const $ = document.getElementById;
export const settle = () => new Promise((next) => soon(next, 20));

// The oldest question of this kind that waits for its answer: { words, answer, refuse }.
export function asked(name) {
  const place = globalThis.questions.findIndex((question) => question.name === name);
  if (place < 0) throw new Error(`nobody asked to ${name}; open: ${globalThis.questions.map((question) => question.name)}`);
  return globalThis.questions.splice(place, 1)[0];
}

// What the codec would say of a sentence.
export const about = { shape: [1, 4, 4], patch: 2, grammar: false, samples: true, bands: {}, weights: "planted" };
export const readingOf = (sentence) => ({
  sentence,
  words: sentence.split(" ").map((text) => ({ text, attention: [255, 0, 0, 0], on_z: 0 })),
  grid: [2, 2],
  scene: null,
});
export const encodedOf = (sentence, warning = "") => ({
  sentence, warning, latent: new Float32Array(16), reading: readingOf(sentence), difference: [], statistics: null,
});
