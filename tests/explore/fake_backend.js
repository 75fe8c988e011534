// Stands in for the page's backend.js: every question waits until the test answers it.

export class Refusal extends Error {}

export const can = { paraphrase: true, runs: true, statistics: false };

globalThis.questions = [];
const question = (name) => (...words) => new Promise((answer, refuse) => globalThis.questions.push({ name, words, answer, refuse }));

export const [get, codec, encode, read, paraphrase, sample, compare, interpolate] = [
  "get", "codec", "encode", "read", "paraphrase", "sample", "compare", "interpolate",
].map(question);
