// Spectra and curves as SVG, small and without a library.

import { svg } from "./scene.js";

const WIDTH = 240;
const HEIGHT = 120;

// One channel's power spectrum in log-log axes, its fitted line, and the fan of slopes that photographs have (if known).
export function drawSpectrum(logFrequency, channel, band) {
  const power = channel.log_power;
  const [left, right] = [Math.min(...logFrequency), Math.max(...logFrequency)];
  const [low, high] = [Math.min(...power) - 0.4, Math.max(...power) + 0.4];
  const x = (value) => 6 + ((value - left) / (right - left)) * (WIDTH - 12);
  const y = (value) => 6 + ((high - value) / (high - low)) * (HEIGHT - 22);
  const middle = logFrequency.reduce((sum, value) => sum + value, 0) / logFrequency.length;
  const level = power.reduce((sum, value) => sum + value, 0) / power.length;
  const line = (slope, from, to) => `${x(from)},${y(level - slope * (from - middle))} ${x(to)},${y(level - slope * (to - middle))}`;
  const fan = band ? `${line(band.low, left, right)} ${line(band.high, right, left)}` : "";
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" });
  const clip = `clip${Math.random().toString(36).slice(2)}`;
  picture.append(
    svg("clipPath", { id: clip }, svg("rect", { x: 0, y: 0, width: WIDTH, height: HEIGHT - 14 })),
    svg("polygon", { class: "band", points: fan, "clip-path": `url(#${clip})` }),
    svg("polyline", { class: "line", points: power.map((value, i) => `${x(logFrequency[i])},${y(value)}`).join(" ") }),
  );
  if (channel.spectral_slope !== null) picture.append(svg("polyline", { class: "fit", points: line(channel.spectral_slope, left, right), "clip-path": `url(#${clip})` }));
  picture.append(svg("text", { x: 6, y: HEIGHT - 2 }, "coarse"), svg("text", { x: WIDTH - 6, y: HEIGHT - 2, "text-anchor": "end" }, "fine"));
  return picture;
}

// One number over the steps of a training.
export function drawCurve(name, points) {
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y).filter((value) => value !== null);
  if (!ys.length) return null;
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const x = (value) => 4 + ((value - left) / (right - left || 1)) * (WIDTH - 8);
  const y = (value) => 18 + ((high - value) / (high - low || 1)) * (HEIGHT - 36);
  const shown = points.filter(([, value]) => value !== null);
  const last = shown[shown.length - 1][1];
  const label = `${name}: ${short(last)} at step ${right}, between ${short(low)} and ${short(high)} so far`;
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    svg("text", { x: 4, y: 12 }, `${name}  ${short(last)}`),
    svg("polyline", { class: "line", points: shown.map(([a, b]) => `${x(a)},${y(b)}`).join(" ") }),
    svg("text", { x: 4, y: HEIGHT - 4 }, `${left}`), svg("text", { x: WIDTH - 4, y: HEIGHT - 4, "text-anchor": "end" }, `step ${right}`));
}

export function short(value) {
  if (value === null || value === undefined) return "none";
  const size = Math.abs(value);
  if (size >= 1e6 || (size < 0.001 && value !== 0)) return value.toExponential(2);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}
