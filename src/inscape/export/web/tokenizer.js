// Sentences to token ids and back, to the letter what inscape.data.tokenizer does: a latent of other ids is another one.
// Text is made NFC and cut at white space; each word is cut into pieces (letters, digits, other signs: GPT-2's rule) and
// encoded by itself. A piece is looked up whole (word-level), or merged from its bytes (BPE, Sennrich et al. 2016). Only a
// letter that is younger than one side's Unicode can be cut elsewhere.

export const [PAD, BOS, EOS, UNK, COPY, CANONICAL, PARAPHRASE] = Array(7).keys();

const LEFT_OUT = new Set([PAD, BOS, COPY, CANONICAL, PARAPHRASE]);
// Python's white space. JavaScript's \s lacks the separators from U+001C to U+001F and U+0085, and has U+FEFF besides.
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^ \p{L}\p{N}]+| /gu;
const SHOWN = 48; // characters of a sentence that a message repeats

export const splitWords = (text) => text.split(SPACE).filter(Boolean);

export const normalise = (text) => splitWords(text.normalize("NFC")).join(" ");

// Each byte as a visible character: itself where it is one, else from U+0100 on (Radford et al. 2019).
const characterOf = (() => {
  const visible = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(visible(byte) ? byte : next++));
})();
const byteOf = new Map(characterOf.map((character, byte) => [character, byte]));
const toBytes = new TextEncoder();

export class Tokenizer {
  // definition: what tokenizer.json holds.
  constructor({ model }) {
    this.vocab = new Map(Object.entries(model.vocab));
    this.names = new Map([...this.vocab].map(([name, id]) => [id, name]));
    const pairs = (model.merges ?? []).map((pair) => (Array.isArray(pair) ? pair.join(" ") : pair));
    this.ranks = model.type === "BPE" ? new Map(pairs.map((pair, rank) => [pair, rank])) : null;
  }

  // bos w1 .. wn eos. An Error in one line: no text, half a surrogate pair, more than `limit` tokens.
  encode(text, limit = 64) {
    if (/\p{Surrogate}/u.test(text)) throw new Error("the sentence holds half a surrogate pair, which is no text; leave it out");
    const clean = normalise(text);
    if (!clean) throw new Error("the sentence is empty: give at least one word");
    const ids = [BOS, ...clean.split(" ").flatMap((word) => this.wordIds(word)), EOS];
    if (ids.length > limit) {
      const characters = [...clean];
      const start = characters.length > SHOWN ? `${characters.slice(0, SHOWN - 1).join("")}…` : clean;
      throw new Error(`sentence '${start}' has ${ids.length} tokens with start and end, the limit is ${limit}: shorten or split it`);
    }
    return ids;
  }

  wordIds(word) {
    return ` ${word}`.match(PIECES).flatMap((piece) => {
      const characters = Array.from(toBytes.encode(piece), (byte) => characterOf[byte]);
      if (!this.ranks) return [this.vocab.get(characters.join("")) ?? UNK];
      return this.merged(characters).map((part) => this.vocab.get(part));
    });
  }

  // The pair that was learned first is merged first, the leftmost of several.
  merged(parts) {
    for (;;) {
      let [best, at] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  // Up to the first eos; special ids but <unk> are left out. Bytes that are not UTF-8 become U+FFFD.
  decode(ids) {
    const end = ids.indexOf(EOS);
    const kept = (end < 0 ? ids : ids.slice(0, end)).filter((id) => !LEFT_OUT.has(id));
    const bytes = kept.flatMap((id) => {
      const characters = [...this.names.get(id)];
      const whole = characters.every((character) => byteOf.has(character)); // <unk> has a space, which is no byte's name
      return whole ? characters.map((character) => byteOf.get(character)) : [...toBytes.encode(characters.join(""))];
    });
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
    return text.startsWith(" ") ? text.slice(1) : text;
  }
}
