// The codec behind the page, inside the page: the same questions and answers as the file of this name that asks a server.
// What only the Python package can do (paraphrases, the grammar's parser, statistics beside photographs) is left out.

import { Network } from "./network.js";
import { Tokenizer, normalise, splitWords } from "./tokenizer.js";
import { differences, rounded, wordsOf } from "./words.js";

const MOST_CHARACTERS = 1000; // of a sentence
const LARGEST = 1e4; // of a latent's values
const MOST_STEPS = 33; // of an interpolation
const MOST_KNOWN = 64; // latents whose reading is remembered

export class Refusal extends Error {
  constructor(message, field = "") {
    super(message);
    this.field = field;
  }
}

export const can = { paraphrase: false, runs: false, statistics: false };

export const get = async () => refuse("this page has no server that could be asked");
export const paraphrase = get;
export const sample = get;

let loading;

// The parts, loaded once: { network, tokenizer, about }.
export const loaded = () => (loading ??= load());

async function load() {
  const [config, definition, about] = await Promise.all(["config.json", "tokenizer.json", "about.json"].map(json));
  const network = await Network.load(config, bytes).catch((error) => refuse(`the codec cannot be started here: ${oneLine(error)}`));
  return { network, tokenizer: new Tokenizer(definition), about: { ...about, words: new Set(about.words) } };
}

async function file(name) {
  const response = await fetch(new URL(name, import.meta.url)).catch(() => refuse(`${name} cannot be fetched; is the page's file server still running?`));
  if (!response.ok) refuse(`${name} cannot be fetched (status ${response.status}); the exported folder is not whole`);
  return response;
}

const json = async (name) => (await file(name)).json();
const bytes = async (name) => (await file(name)).arrayBuffer();

export async function codec() {
  const { network, about } = await loaded();
  const { latent_shape: shape, memory } = network.config;
  const patch = shape[1] / memory.patch_grid[0];
  return { weights: about.weights, shape, patch, bands: {}, grammar: false, scenes: about.words.size > 0, words: [] };
}

export async function encode(sentence) {
  const { latent, warning, text } = await latentOf(sentence, "sentence");
  const [{ reading }] = await readAll([latent]);
  const difference = differences(text, reading.sentence); // what the codec forgives is no difference
  return { sentence, latent, warning, scene: null, statistics: null, reading, difference };
}

// What a latent says; with an original also the words that changed and the cosine of the two.
export async function read(latent, original) {
  const [now, before] = await readAll(original ? [latent, original] : [latent]);
  const answer = { reading: now.reading, statistics: null };
  if (!before) return answer;
  const difference = differences(before.reading.sentence, now.reading.sentence);
  return { ...answer, difference, cosine: cosine(before, now) };
}

export async function compare(first, second) {
  const encoded = [await latentOf(first, "first"), await latentOf(second, "second")];
  const found = await readAll(encoded.map(({ latent }) => latent));
  const sides = [first, second].map((sentence, i) => ({ sentence, latent: encoded[i].latent, warning: encoded[i].warning, scene: null, reading: found[i].reading }));
  return { cosine: cosine(...found), edit: "unread", first: sides[0], second: sides[1] };
}

export async function interpolate(first, second, steps) {
  if (!Number.isInteger(steps) || steps < 2 || steps > MOST_STEPS) refuse(`steps is ${steps}; allowed: a whole number from 2 to ${MOST_STEPS}`, "steps");
  const [start, end] = [(await latentOf(first, "first")).latent, (await latentOf(second, "second")).latent];
  const shares = Array.from({ length: steps }, (_, i) => i / (steps - 1));
  const found = await readAll(shares.map((share) => start.map((value, i) => (1 - share) * value + share * end[i])));
  return {
    steps: found.map((one, i) => ({
      share: shares[i],
      sentence: one.reading.sentence,
      in_grammar: null,
      cosine_first: cosine(one, found[0]),
      cosine_second: cosine(one, found.at(-1)),
    })),
  };
}

// --- sentences ---

async function latentOf(sentence, field) {
  check(sentence, field);
  const { network, tokenizer, about } = await loaded();
  const { text, warning } = asTrained(sentence, about.words);
  let ids;
  try {
    ids = tokenizer.encode(text, network.config.max_length);
  } catch (error) {
    refuse(error.message, field);
  }
  return { latent: await inTurn(() => network.encode(ids)), warning, text };
}

function check(sentence, field) {
  if (!splitWords(sentence).length) refuse(`${field} is empty; type a sentence, such as: a red ball is on the blue block`, field);
  const length = [...sentence].length;
  if (length > MOST_CHARACTERS) refuse(`${field} has ${length} characters; allowed: up to ${MOST_CHARACTERS}`, field);
}

// Of a grammar's words alone, a sentence is forgiven a capital first letter and a final stop; another one is doubted.
// words: empty for a codec of other text.
function asTrained(sentence, words) {
  const text = normalise(sentence);
  const spelled = `${text.slice(0, 1).toLowerCase()}${text.slice(1)}`.replace(/\.$/, "");
  const stranger = splitWords(spelled).find((word) => !words.has(word));
  if (!words.size) return { text, warning: "" };
  if (stranger === undefined && spelled) return { text: spelled, warning: "" };
  return { text, warning: `'${stranger ?? text}' is not one of the ${words.size} words of the grammar; the quality of its latent is unknown` };
}

// --- latents ---

let turn = Promise.resolve();
let known = []; // the newest first: { latent, z, reading }

// One after the other: of two questions about one latent, the second finds it read.
function inTurn(act) {
  const mine = turn.then(act);
  turn = mine.catch(() => {});
  return mine;
}

// The page goes on painting on what it gives, so it is copied at once.
function readAll(latents) {
  const asked = latents.map((latent) => Float32Array.from(latent));
  return inTurn(async () => {
    const { network, tokenizer } = await loaded();
    for (const latent of asked) {
      if (latent.length !== network.size || !latent.every((value) => Math.abs(value) <= LARGEST)) refuse(`the latent holds NaN, infinite or huge values; allowed: ${network.size} numbers up to ${LARGEST}`, "latent");
    }
    const found = asked.map((latent) => known.find((one) => same(one.latent, latent)));
    const missing = asked.filter((_, i) => !found[i]);
    const fresh = missing.length ? await network.read(missing) : [];
    const told = fresh.map((one, i) => ({ latent: missing[i], z: one.z, reading: readingOf(one, network, tokenizer) }));
    const answer = found.map((one) => one ?? told.shift());
    known = [...new Set([...answer, ...known])].slice(0, MOST_KNOWN);
    return answer;
  });
}

function readingOf({ tokens, attention }, network, tokenizer) {
  const grid = network.config.memory.patch_grid;
  const words = wordsOf(tokenizer, tokens, attention, grid[0] * grid[1]);
  return { sentence: tokenizer.decode(tokens), grid, words, scene: null, in_grammar: null };
}

const same = (one, other) => one.every((value, i) => value === other[i]);

function cosine(one, other) {
  const product = one.z.reduce((sum, value, i) => sum + value * other.z[i], 0);
  return rounded(Math.max(-1, Math.min(1, product)), 6);
}

function refuse(message, field) {
  throw new Refusal(message, field);
}

const oneLine = (error) => String(error.message ?? error).split("\n")[0].slice(0, 200);
