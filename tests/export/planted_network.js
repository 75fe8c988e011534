// Stands in for network.js: every latent says the tokens that the driver was given.

export class Network {
  static load = async () => new Network();

  config = { latent_shape: [1, 2, 2], max_length: 64, memory: { patch_grid: [1, 1] } };
  size = 4;

  encode = async () => new Float32Array(this.size);
  read = async (latents) => latents.map(() => ({ z: [1], tokens: globalThis.said, attention: globalThis.said.map(() => [1, 0]) }));
}
