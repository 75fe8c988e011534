// A scene as a small picture of blocks: an SVG with a line of text for those who do not see it.

const NAMES = "http://www.w3.org/2000/svg";
const COLOURS = {
  red: "#d1362b", blue: "#2f6fd0", green: "#3f9b46", yellow: "#f2cf3b", orange: "#ef8a2c", purple: "#8a55b5",
  black: "#26272b", white: "#f7f6f1", brown: "#8a5a34", gray: "#9a9da3",
};
const SIZES = { small: 0.62, medium: 0.85, large: 1.15 };
const UNIT = 34; // of one thing; a fact takes 150 x 120

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(NAMES, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function drawScene(place, scene, title) {
  if (!scene) {
    const note = document.createElement("p");
    note.className = "faint";
    note.textContent = "No scene: this is no sentence of the grammar.";
    place.replaceChildren(note);
    return;
  }
  const width = 150 * scene.facts.length;
  const text = scene.facts.map((fact) => `${called(fact.figure)} ${fact.relation} ${called(fact.ground)}`).join("; ");
  const picture = svg("svg", { viewBox: `0 0 ${width} 120`, width, height: 120, role: "img", "aria-label": `${title}: ${text}` });
  scene.facts.forEach((fact, i) => {
    if (i) picture.append(svg("line", { class: "axis", x1: 150 * i, x2: 150 * i, y1: 12, y2: 108 }));
    picture.append(svg("g", { transform: `translate(${150 * i + 75} 60)` }, ...drawFact(fact)));
  });
  const caption = document.createElement("figcaption");
  caption.className = "faint";
  caption.textContent = text;
  place.replaceChildren(picture, caption);
}

function called(thing) {
  return [thing.count > 1 ? ["", "", "two", "three", "four"][thing.count] : "", thing.size ?? "", thing.colour,
    thing.shape + (thing.count > 1 ? "s" : "")].filter(Boolean).join(" ");
}

function drawFact({ relation, figure, ground }) {
  if (relation === "on") return [things(ground, 0, 26), things(figure, 0, -18)];
  if (relation === "left of") return [things(figure, -37, 10), things(ground, 37, 10), arrow()];
  if (relation === "in front of") return [things(ground, 14, -14, 0.9), things(figure, -12, 22)];
  if (relation === "inside") return [shell(ground), things(figure, 0, 6, 0.75)];
  return [things(figure, -30, 10), things(ground, 30, 10)];
}

function arrow() {
  return svg("path", { class: "axis", d: "M 50 48 H -50 M -44 43 L -50 48 L -44 53" });
}

// One to four equal things in a row.
function things(thing, x, y, scale = 1) {
  const unit = UNIT * (SIZES[thing.size] ?? 1) * scale * (thing.count > 2 ? 0.62 : thing.count > 1 ? 0.8 : 1);
  const step = unit * 0.95;
  const group = svg("g", { transform: `translate(${x} ${y})` });
  for (let i = 0; i < thing.count; i++) {
    group.append(shape(thing, (i - (thing.count - 1) / 2) * Math.min(step, 68 / thing.count), 0, unit / 2));
  }
  return group;
}

function shell(thing) {
  const group = svg("g", { "fill-opacity": 0.35 }, shape(thing, 0, 0, 46));
  if (thing.count > 1) group.append(svg("text", { x: 40, y: 52, "text-anchor": "end" }, `×${thing.count}`));
  return group;
}

function shape({ shape: name, colour }, x, y, r) {
  const look = { class: "thing", fill: COLOURS[colour] };
  const at = (dx, dy) => `${(x + dx * r).toFixed(1)} ${(y + dy * r).toFixed(1)}`;
  const path = (d) => svg("path", { ...look, d });
  switch (name) {
    case "ball": return svg("circle", { ...look, cx: x, cy: y, r: r * 0.95 });
    case "ring": return svg("circle", { ...look, cx: x, cy: y, r: r * 0.7, fill: "none", stroke: COLOURS[colour], "stroke-width": r * 0.45 });
    case "plate": return svg("ellipse", { ...look, cx: x, cy: y + r * 0.5, rx: r, ry: r * 0.35 });
    case "rod": return svg("rect", { ...look, x: x - r * 0.22, y: y - r, width: r * 0.44, height: 2 * r, rx: r * 0.2 });
    case "cone": return path(`M ${at(0, -1)} L ${at(0.8, 0.75)} Q ${at(0, 1.15)} ${at(-0.8, 0.75)} Z`);
    case "pyramid": return path(`M ${at(0, -1)} L ${at(1, 0.7)} L ${at(0.15, 1)} L ${at(-1, 0.7)} Z M ${at(0, -1)} L ${at(0.15, 1)}`);
    case "cylinder": return path(`M ${at(-0.7, -0.7)} A ${0.7 * r} ${0.25 * r} 0 0 1 ${at(0.7, -0.7)} V ${y + 0.7 * r} A ${0.7 * r} ${0.25 * r} 0 0 1 ${at(-0.7, 0.7)} Z M ${at(-0.7, -0.7)} A ${0.7 * r} ${0.25 * r} 0 0 0 ${at(0.7, -0.7)}`);
    case "star": return path(`M ${[...Array(10).keys()].map((i) => { const a = (Math.PI * i) / 5 - Math.PI / 2; const l = i % 2 ? 0.45 : 1.05; return at(l * Math.cos(a), l * Math.sin(a)); }).join(" L ")} Z`);
    default: return svg("rect", { ...look, x: x - r * 0.9, y: y - r * 0.9, width: 1.8 * r, height: 1.8 * r });
  }
}
