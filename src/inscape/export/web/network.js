// The codec's three graphs, run by onnxruntime in WebAssembly on one thread: no server, no GPU, no isolated page needed.

import * as ort from "./onnxruntime/ort.js";
import { EOS, PAD } from "./tokenizer.js";

const GRAPHS = ["encoder", "readout", "decoder_step"];

ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
ort.env.logLevel = "error";

export class Network {
  // config: what config.json holds; bytes: gives a file of this folder.
  static async load(config, bytes) {
    const network = new Network();
    const [runtime, ...graphs] = await Promise.all([bytes("onnxruntime/ort.wasm"), ...GRAPHS.map((name) => bytes(config.graphs[name].file))]);
    ort.env.wasm.wasmBinary = runtime;
    network.config = config;
    for (const [i, name] of GRAPHS.entries()) network[name] = await ort.InferenceSession.create(new Uint8Array(graphs[i]));
    return network;
  }

  get size() {
    return this.config.latent_shape.reduce((product, side) => product * side, 1);
  }

  // Token ids of one sentence to its latent, channels first.
  async encode(ids) {
    const tokens = int64(ids, [1, ids.length]);
    return (await this.encoder.run({ tokens })).latent.data;
  }

  // For each latent what is said, free-running and greedy, where each token looked, and z, which has unit norm.
  async read(latents) {
    const { z, memory_keys, memory_values } = await this.readout.run({ latent: this.batch(latents) });
    const [batch, layers, heads, , width] = memory_keys.dims;
    const none = new ort.Tensor("float32", new Float32Array(0), [batch, layers, heads, 0, width]);
    const read = latents.map((_, i) => ({ tokens: [], attention: [], z: part(z, i) }));
    let [past_keys, past_values] = [none, none];
    let said = Array(batch).fill(this.config.start_id);
    for (let step = 1; step < this.config.max_length && !read.every(ended); step++) {
      const feeds = { token: int64(said, [batch]), memory_keys, memory_values, past_keys, past_values };
      const { logits, attention, present_keys, present_values } = await this.decoder_step.run(feeds);
      [past_keys, past_values] = [present_keys, present_values];
      said = read.map((one, i) => (ended(one) ? PAD : likeliest(part(logits, i))));
      read.forEach((one, i) => {
        if (ended(one)) return;
        one.tokens.push(said[i]);
        one.attention.push(part(attention, i));
      });
    }
    return read;
  }

  batch(latents) {
    const values = new Float32Array(latents.length * this.size);
    latents.forEach((latent, i) => values.set(latent, i * this.size));
    return new ort.Tensor("float32", values, [latents.length, ...this.config.latent_shape]);
  }
}

const int64 = (ids, shape) => new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), shape);
const ended = ({ tokens }) => tokens.at(-1) === EOS;
const likeliest = (logits) => logits.reduce((best, value, id) => (value > logits[best] ? id : best), 0);

function part(tensor, i) {
  const length = tensor.data.length / tensor.dims[0];
  return tensor.data.slice(i * length, (i + 1) * length);
}
