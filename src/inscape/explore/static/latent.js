// A latent that can be touched and untouched again: Float32Array of C x H x W, channels first. No drawing here.

const MOST_KEPT = 100; // steps that can be taken back: 25 kB each

export class Latent {
  constructor(shape) {
    [this.channels, this.height, this.width] = shape;
    this.original = new Float32Array(this.channels * this.height * this.width);
    this.values = this.original.slice();
    this.past = [];
    this.future = [];
  }

  begin(values) {
    this.original = values.slice();
    this.values = values.slice();
    this.past = [];
    this.future = [];
  }

  get touched() {
    return this.values.some((value, i) => value !== this.original[i]);
  }

  // Call before a change: what is now can be had back.
  remember() {
    this.past.push(this.values.slice());
    if (this.past.length > MOST_KEPT) this.past.shift();
    this.future = [];
  }

  undo() {
    if (!this.past.length) return false;
    this.future.push(this.values);
    this.values = this.past.pop();
    return true;
  }

  redo() {
    if (!this.future.length) return false;
    this.past.push(this.values);
    this.values = this.future.pop();
    return true;
  }

  reset() {
    this.remember();
    this.values = this.original.slice();
  }

  channel(c, values = this.values) {
    const size = this.height * this.width;
    return values.subarray(c * size, (c + 1) * size);
  }

  // Standard deviation of all values: the unit of the noise.
  get spread() {
    const mean = this.values.reduce((sum, value) => sum + value, 0) / this.values.length;
    return Math.sqrt(this.values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / this.values.length);
  }

  // A tool at one pixel, on a disc of this many pixels across (a square for "cut").
  dab(tool, channels, x, y, size, level) {
    const pixels = tool === "cut" ? this.square(x, y, size) : this.disc(x, y, size);
    for (const c of channels) {
      const plane = this.channel(c);
      if (tool === "blur") {
        const soft = blurred(plane, this.height, this.width);
        for (const i of pixels) plane[i] = soft[i];
      } else {
        const value = tool === "paint" ? level : mean(plane);
        const target = tool === "cut" ? 0 : value;
        for (const i of pixels) plane[i] = target;
      }
    }
  }

  disc(x, y, size) {
    const [radius, half] = [size / 2, size % 2 ? 0 : 0.5]; // an even disc has its middle between pixels
    return this.pixels((px, py) => (px - x + half) ** 2 + (py - y + half) ** 2 <= radius * radius);
  }

  square(x, y, size) {
    const [left, top] = [x - Math.floor(size / 2), y - Math.floor(size / 2)];
    return this.pixels((px, py) => px >= left && px < left + size && py >= top && py < top + size);
  }

  pixels(inside) {
    const found = [];
    for (let y = 0; y < this.height; y++) for (let x = 0; x < this.width; x++) if (inside(x, y)) found.push(y * this.width + x);
    return found;
  }

  // By whole pixels, the edge repeated, as the study's jitter shifts.
  shift(channels, across, down) {
    for (const c of channels) {
      const plane = this.channel(c);
      const old = plane.slice();
      for (let y = 0; y < this.height; y++) {
        for (let x = 0; x < this.width; x++) {
          const fromX = clamp(x - across, 0, this.width - 1);
          const fromY = clamp(y - down, 0, this.height - 1);
          plane[y * this.width + x] = old[fromY * this.width + fromX];
        }
      }
    }
  }

  blur(channels) {
    for (const c of channels) this.channel(c).set(blurred(this.channel(c), this.height, this.width));
  }

  noise(channels, share) {
    const spread = share * this.spread;
    for (const c of channels) {
      const plane = this.channel(c);
      for (let i = 0; i < plane.length; i++) plane[i] += spread * normal();
    }
  }

  // Patches of this side change places, the same in all channels given.
  shuffle(channels, side) {
    const [across, down] = [Math.floor(this.width / side), Math.floor(this.height / side)];
    const order = [...Array(across * down).keys()];
    for (let i = order.length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    for (const c of channels) {
      const plane = this.channel(c);
      const old = plane.slice();
      order.forEach((from, to) => {
        for (let y = 0; y < side; y++) {
          for (let x = 0; x < side; x++) {
            const at = (patch) => (Math.floor(patch / across) * side + y) * this.width + (patch % across) * side + x;
            plane[at(to)] = old[at(from)];
          }
        }
      });
    }
  }

  swap(channels, other) {
    for (const c of channels) this.channel(c).set(this.channel(c, other));
  }
}

function blurred(plane, height, width) {
  const soft = new Float32Array(plane.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      let weight = 0;
      for (let dy = -1; dy <= 1; dy++) {
        for (let dx = -1; dx <= 1; dx++) {
          const [py, px] = [clamp(y + dy, 0, height - 1), clamp(x + dx, 0, width - 1)];
          const w = (2 - Math.abs(dy)) * (2 - Math.abs(dx)); // 1 2 1 across 1 2 1
          sum += w * plane[py * width + px];
          weight += w;
        }
      }
      soft[y * width + x] = sum / weight;
    }
  }
  return soft;
}

const mean = (plane) => plane.reduce((sum, value) => sum + value, 0) / plane.length;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function normal() {
  const radius = Math.sqrt(-2 * Math.log(1 - Math.random())); // Box and Muller 1958
  return radius * Math.cos(2 * Math.PI * Math.random());
}
