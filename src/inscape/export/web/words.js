// What the page shows of a text, word by word: where each word looked, and which words differ from those of another text.
// The same figures as inscape.explore.answers gives.

import { EOS, PAD, splitWords } from "./tokenizer.js";

// tokens and attention: what was said and where each token looked, a number for each place of the memory; the first
// `patches` places are the latent's, the others z's. attention of a word: 0 to 255 of its most looked-at patch.
export function wordsOf(tokenizer, tokens, attention, patches) {
  const kept = tokens.map((_, i) => i).filter((i) => tokens[i] !== PAD && tokens[i] !== EOS);
  const ids = kept.map((i) => tokens[i]);
  const owner = ids.map((_, n) => Math.max(0, splitWords(tokenizer.decode(ids.slice(0, n + 1))).length - 1));
  return splitWords(tokenizer.decode(ids)).map((text, number) => {
    const mine = kept.filter((_, n) => owner[n] === number);
    const mean = Array.from(attention[0], (_, place) => mine.reduce((sum, i) => sum + attention[i][place], 0) / Math.max(1, mine.length));
    const most = Math.max(...mean.slice(0, patches), 1e-12);
    const onZ = mean.slice(patches).reduce((sum, share) => sum + share, 0);
    return { text, attention: mean.slice(0, patches).map((share) => Math.round((255 * share) / most)), on_z: rounded(onZ, 4) };
  });
}

export const rounded = (value, places) => Number(value.toFixed(places));

// Runs of words that are the same, changed, gone or added, by Ratcliff and Obershelp 1988, as Python's difflib has it.
export function differences(before, after) {
  const [a, b] = [splitWords(before), splitWords(after)];
  const found = [];
  let [i, j] = [0, 0];
  const step = (kind, toI, toJ) => {
    const last = found.at(-1);
    const [was, now] = [a.slice(i, toI).join(" "), b.slice(j, toJ).join(" ")];
    if (kind === "same" && last?.kind === "same") [last.was, last.now] = [`${last.was} ${was}`, `${last.now} ${now}`];
    else found.push({ kind, was, now });
    [i, j] = [toI, toJ];
  };
  for (const [atA, atB, length] of [...blocks(a, b, 0, a.length, 0, b.length), [a.length, b.length, 0]]) {
    if (i < atA || j < atB) step(i === atA ? "added" : j === atB ? "gone" : "changed", atA, atB);
    if (length) step("same", atA + length, atB + length);
  }
  return found;
}

// The longest run that both have, what lies before it and what lies after it, in order.
function blocks(a, b, fromA, toA, fromB, toB) {
  let [atA, atB, length] = [fromA, fromB, 0];
  let row = new Map(); // the length of the common run that ends at this word of b
  for (let i = fromA; i < toA; i++) {
    const next = new Map();
    for (let j = fromB; j < toB; j++) {
      if (a[i] !== b[j]) continue;
      const run = (row.get(j - 1) ?? 0) + 1;
      next.set(j, run);
      if (run > length) [atA, atB, length] = [i - run + 1, j - run + 1, run];
    }
    row = next;
  }
  if (!length) return [];
  return [...blocks(a, b, fromA, atA, fromB, atB), [atA, atB, length], ...blocks(a, b, atA + length, toA, atB + length, toB)];
}
