// The second part: two sentences, how far apart they are, and what lies between their pictures.

import { compare, interpolate, read } from "./backend.js";
import { afterPause, complaints, newestOnly } from "./asking.js";
import { clear, drawComposite } from "./picture.js";
import { drawScene } from "./scene.js";

const $ = (id) => document.getElementById(id);
const STEPS = 9;
const EDITS = {
  none: "They mean the same.",
  several: "No single one of the eight edits lies between them.",
  unread: "The parser cannot read one of them, so nobody can say which edit lies between.",
  colour: "One edit lies between them: the colour of one object.",
  shape: "One edit lies between them: the shape of one object.",
  size: "One edit lies between them: the size of one object.",
  count: "One edit lies between them: how many there are of one object.",
  relation: "One edit lies between them: the relation.",
  arguments: "One edit lies between them: the two objects of a relation have changed places.",
  binding: "One edit lies between them: the two objects of a relation have exchanged an attribute.",
  across: "One edit lies between them: two objects of different facts have exchanged something.",
};

let about;
let pair = null;

export function startTwo(codec) {
  about = codec;
  $("first").value = "a red ball is on the blue block";
  $("second").value = "the blue block is on a red ball";
  $("pair").addEventListener("submit", (event) => event.preventDefault());
  const soon = afterPause(200, meet);
  for (const name of ["first", "second"]) $(name).addEventListener("input", soon);
  $("share").addEventListener("input", () => {
    $("share-said").textContent = Number($("share").value).toFixed(2);
    mix();
  });
}

export const openTwo = () => pair ?? meet();

const meet = newestOnly(async () => {
  const troubles = { first: complaints($("first-problem"), $("first")), second: complaints($("second-problem"), $("second")), "": complaints($("two-problem")) };
  for (const trouble of Object.values(troubles)) trouble.clear();
  try {
    const [first, second] = [$("first").value, $("second").value];
    pair = await compare(first, second);
    for (const name of ["first", "second"]) $(`${name}-warning`).textContent = pair[name].warning ?? "";
    $("apart").textContent = `Cosine of their meanings: ${pair.cosine.toFixed(3)}. ${about.grammar ? EDITS[pair.edit] : ""}`;
    await mix();
    const { steps } = await interpolate(first, second, STEPS);
    $("way").replaceChildren(...steps.map(({ share, sentence }) => {
      const row = document.createElement("li");
      row.textContent = `${share.toFixed(2)}  ${sentence}`;
      row.dataset.share = share;
      return row;
    }));
    markWay();
  } catch (error) {
    (troubles[error.field] ?? troubles[""]).say(error);
    pair = null; // what was said of the last pair is not true of these
    for (const name of ["apart", "first-warning", "second-warning"]) $(name).textContent = "";
    $("way").replaceChildren();
    clear($("mixed"));
    forgetMixture();
  }
});

function forgetMixture() {
  for (const name of ["mixed-said", "mixed-cosines"]) $(name).textContent = "";
  $("mixed-scene").replaceChildren();
}

const mix = newestOnly(async () => {
  const mine = pair;
  if (!mine) return;
  const share = Number($("share").value);
  const [channels, height, width] = about.shape;
  const mixed = mine.first.latent.map((value, i) => value + share * (mine.second.latent[i] - value));
  drawComposite($("mixed"), mixed, channels, height, width);
  markWay();
  try {
    const [towards, from] = await Promise.all([read(mixed, mine.second.latent), read(mixed, mine.first.latent)]);
    if (mine !== pair) return; // other sentences were compared meanwhile
    $("two-problem").textContent = "";
    $("mixed-said").textContent = from.reading.sentence || "(nothing)";
    $("mixed-cosines").textContent = `Cosine to the first ${from.cosine.toFixed(3)}, to the second ${towards.cosine.toFixed(3)}`;
    $("mixed-scene").hidden = !about.grammar;
    if (about.grammar) drawScene($("mixed-scene"), from.reading.scene, "What the mixture says");
  } catch (error) {
    if (mine !== pair) return;
    forgetMixture();
    $("two-problem").textContent = error.message;
  }
});

function markWay() {
  const share = Number($("share").value);
  for (const row of $("way").children) row.classList.toggle("here", Math.abs(Number(row.dataset.share) - share) < 0.5 / (STEPS - 1));
}
