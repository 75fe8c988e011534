// Latents as pixels. Cividis for one channel (Nunez, Anderton & Renslow 2018: the same to eyes that tell red from green
// and to those that do not); for all at once a direction a channel between dark and bright, blue and yellow.

const RANGE = 3; // standard deviations from dark to bright; V has about unit variance
const CIVIDIS = [
  [0, 32, 76], [0, 42, 102], [35, 62, 108], [63, 80, 108], [87, 98, 110], [110, 117, 116], [133, 136, 119],
  [158, 156, 116], [184, 177, 108], [211, 199, 94], [238, 221, 73], [255, 233, 69],
];

export function colourOf(value) {
  const at = Math.min(1, Math.max(0, (value + RANGE) / (2 * RANGE))) * (CIVIDIS.length - 1);
  const low = Math.min(CIVIDIS.length - 2, Math.floor(at));
  return CIVIDIS[low].map((part, i) => Math.round(part + (at - low) * (CIVIDIS[low + 1][i] - part)));
}

export function drawChannel(canvas, plane, height, width) {
  paint(canvas, height, width, (i) => colourOf(plane[i]));
}

// Each channel pulls the pixel its own way in the plane of brightness and of blue against yellow, which colour-blind eyes
// see as well: as many directions as channels, evenly over half a turn.
export function drawComposite(canvas, latent, channels, height, width) {
  const size = height * width;
  const hues = [...Array(channels).keys()].map((c) => {
    const angle = (Math.PI * c) / channels;
    const [bright, yellow] = [Math.cos(angle), Math.sin(angle)];
    return [bright + 0.6 * yellow, bright + 0.5 * yellow, bright - yellow];
  });
  const scale = 128 / (RANGE * Math.sqrt(channels / 2));
  paint(canvas, height, width, (i) =>
    [0, 1, 2].map((part) => {
      let sum = 128;
      for (let c = 0; c < channels; c++) sum += scale * latent[c * size + i] * hues[c][part];
      return Math.min(255, Math.max(0, Math.round(sum)));
    }));
}

function paint(canvas, height, width, colour) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const image = context.createImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    const [red, green, blue] = colour(i);
    image.data.set([red, green, blue, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

export function clear(canvas) {
  canvas.getContext("2d", { willReadFrequently: true }).clearRect(0, 0, canvas.width, canvas.height);
}

// What a word looked at: the other patches are dimmed, and all of them by what it took from the embedding instead.
export function drawAttention(canvas, plane, height, width, { attention, on_z: onZ }, grid) {
  const [rows, columns] = grid;
  paint(canvas, height, width, (i) => {
    const [y, x] = [Math.floor(i / width), i % width];
    const patch = Math.floor((y * rows) / height) * columns + Math.floor((x * columns) / width);
    const light = 0.15 + (0.85 * (1 - onZ) * attention[patch]) / 255;
    return colourOf(plane[i]).map((part) => Math.round(part * light));
  });
}

// A frame around one pixel, for those who paint by keyboard.
export function drawCursor(canvas, x, y) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const image = context.getImageData(x, y, 1, 1);
  const bright = image.data[0] + image.data[1] + image.data[2] > 380;
  context.fillStyle = bright ? "#000" : "#fff";
  context.fillRect(x, y, 1, 1);
}
