// Run by node beside the exported backend.js and a network that says what it is told to: what `encode` answers, as JSON.

import { readFileSync } from "node:fs";

const asked = JSON.parse(readFileSync(0, "utf8"));
globalThis.said = asked.said;
globalThis.fetch = async (address) => ({ ok: true, json: async () => asked.files[address.pathname.split("/").pop()] });

const { compare, encode } = await import("./backend.js");
const answers = [];
for (const text of asked.texts) answers.push(await encode(text));
console.log(JSON.stringify({ encoded: answers, compared: await compare(asked.texts[0], asked.texts[0]) }));
