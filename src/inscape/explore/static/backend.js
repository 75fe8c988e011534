// The codec behind the page, asked over HTTP. The exported page has another file of this name, with the codec inside it.

export class Refusal extends Error {
  constructor(message, field = "") {
    super(message);
    this.field = field;
  }
}

export const can = { paraphrase: true, runs: true, statistics: true };

export async function get(address) {
  return answered(await fetch(address, { headers: { Accept: "application/json" } }).catch(gone));
}

async function post(name, fields) {
  const body = JSON.stringify(fields);
  const headers = { "Content-Type": "application/json" };
  return answered(await fetch(`api/${name}`, { method: "POST", headers, body }).catch(gone));
}

function gone() {
  throw new Refusal("the page's server does not answer; is inscape explore still running?");
}

async function answered(response) {
  const answer = await response.json().catch(() => ({ error: `an answer that is no JSON (status ${response.status})` }));
  if (!response.ok) throw new Refusal(answer.error ?? `status ${response.status}`, answer.field ?? "");
  return answer;
}

export const codec = () => get("api/codec");

export async function encode(sentence) {
  const answer = await post("encode", { sentence });
  return { ...answer, latent: fromBase64(answer.latent) };
}

// What a latent says; with an original also the words that changed and the cosine of the two.
export function read(latent, original) {
  const fields = { latent: toBase64(latent) };
  return post("read", original ? { ...fields, original: toBase64(original) } : fields);
}

export const paraphrase = (sentence, n, seed) => post("paraphrase", { sentence, n, seed });

// A latent drawn out of noise; only where the codec says that it samples.
export async function sample(seed) {
  const answer = await post("sample", { seed });
  return { ...answer, latent: fromBase64(answer.latent) };
}

export async function compare(first, second) {
  const answer = await post("compare", { first, second });
  for (const side of [answer.first, answer.second]) side.latent = fromBase64(side.latent);
  return answer;
}

export const interpolate = (first, second, steps) => post("interpolate", { first, second, steps });

function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

function toBase64(latent) {
  const bytes = new Uint8Array(latent.buffer, latent.byteOffset, latent.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
  return btoa(text);
}
