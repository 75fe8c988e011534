// Run by node beside the exported scripts: what they make of the questions on standard input, as JSON.

import { readFileSync } from "node:fs";
import { Tokenizer } from "./tokenizer.js";
import { differences, wordsOf } from "./words.js";

const asked = JSON.parse(readFileSync(0, "utf8"));
const tokenizer = new Tokenizer(asked.definition);

function encoded(text) {
  try {
    return tokenizer.encode(text, asked.limit);
  } catch (error) {
    return error.message;
  }
}

console.log(JSON.stringify({
  encoded: (asked.texts ?? []).map(encoded),
  decoded: (asked.rows ?? []).map((row) => tokenizer.decode(row)),
  words: (asked.spoken ?? []).map(({ tokens, attention }) => wordsOf(tokenizer, tokens, attention, asked.patches)),
  differences: (asked.pairs ?? []).map((pair) => differences(...pair)),
}));
