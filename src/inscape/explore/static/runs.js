// The last part: what was run, what came of it, and how a training that is running gets on.

import { get } from "./backend.js";
import { drawCurve, short } from "./plots.js";

const $ = (id) => document.getElementById(id);
const SIGNS = { PASS: "✓", FAIL: "✗", INVALID: "⊘", INCONCLUSIVE: "?", PARTIAL: "◐", UNFINISHED: "…", UNREADABLE: "✗" };
const EVERY = 2000; // milliseconds between two looks at a log

let opened = ""; // the address that is shown; an answer for another one is dropped
let following = 0; // which follower is the newest; the others stop

// told: what those hear who do not see the page, as that what they followed has ended.
export async function openRuns(address, told = "") {
  opened = address;
  following += 1;
  $("run").replaceChildren();
  $("runs-problem").textContent = "";
  $("runs-told").textContent = told;
  $("runs-list").hidden = Boolean(address);
  $("run").hidden = !address;
  try {
    if (address) await showRun(address);
    else showList(await get("api/runs"));
  } catch (error) {
    if (address === opened) $("runs-problem").textContent = error.message;
  }
}

const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

const verdict = (outcome) => make("span", { className: `verdict ${outcome}` }, outcome ? `${SIGNS[outcome] ?? ""} ${outcome}` : "");
const away = (id) => `#/runs/${id.split("/").map(encodeURIComponent).join("/")}`;

function table(heads, rows) {
  const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
  const body = make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell ?? "")))));
  const scroll = make("div", { className: "scroll", tabIndex: 0, role: "region" }, make("table", {}, head, body));
  scroll.setAttribute("aria-label", `Table: ${heads.join(", ")}`);
  return scroll;
}

const on = (corpus) => (corpus?.length ? [corpus.join(", ")] : []);

function showList({ studies, unreadable }) {
  const parts = studies.flatMap((study) => [
    make("h3", {}, `${study.name}: ${study.title}`),
    make("p", { className: "faint" }, study.hypothesis),
    ...study.phases.flatMap((phase) => phase.presets.map((preset) => make("details", { open: preset.runs.some((run) => run.running) },
      make("summary", {}, `${phase.code} ${phase.name}, ${[preset.preset, ...on(preset.corpus)].join(" on ")} `, verdict(preset.standing)),
      make("p", { className: "faint" }, phase.question),
      table(["Run", "Seed", "Verdict", "Plan", "Calibrated", "Started"], preset.runs.map((run) => [
        make("a", { href: away(run.id) }, run.id.split("/").pop()),
        String(run.seed ?? ""),
        make("span", {}, verdict(run.outcome), run.running ? " running" : "", run.pushed ? " past a shut gate" : ""),
        run.plan ?? "", run.calibrated ?? "", run.started ? new Date(run.started).toLocaleString() : "",
      ])),
    ))),
  ]);
  if (!parts.length) parts.push(make("p", {}, "There are no runs here yet. Start one: ", make("code", {}, "./inscape run visual --preset quick"), ", and look again."));
  if (unreadable.length) {
    parts.push(make("h3", {}, "Not readable"), make("ul", {}, ...unreadable.map(({ id, problem }) => make("li", {}, `${id}: ${problem}`))));
  }
  $("runs-list").replaceChildren(...parts);
}

function measured(estimate) {
  if (!estimate) return "not measured";
  const { value, low, high, n, unit } = estimate;
  const interval = low !== null && high !== null && low !== undefined && low !== high ? ` [${short(low)}, ${short(high)}]` : "";
  return `${short(value)}${interval}${n ? `, ${n} ${unit}` : ""}`;
}

async function showRun(address) {
  const run = await get(`api/runs/${address.split("/").map(encodeURIComponent).join("/")}`);
  if (address !== opened) return;
  const live = make("div", { id: "live" });
  live.setAttribute("aria-live", "off");
  const parts = [
    make("p", {}, make("a", { href: "#/runs" }, "All runs")),
    make("h3", {}, `${run.title}, ${run.preset ?? address.split("/")[2]}, seed ${run.seed ?? ""} `, verdict(run.outcome)),
    ...departures(run),
    make("p", {}, run.question),
    make("p", {}, [run.sentence, run.done].filter(Boolean).join(" ")),
  ];
  if (!run.finished) parts.push(live);
  for (const source of ["plan", "calibrated"]) {
    const rows = run.findings.filter((finding) => finding.source === source && finding.role === "claim");
    if (rows.length) parts.push(make("h3", {}, source === "plan" ? "The plan's criteria" : "Calibrated criteria"), findings(rows));
  }
  const controls = run.findings.filter((finding) => finding.role === "control");
  if (controls.length) parts.push(make("h3", {}, "Controls"), findings(controls));
  if (run.failure_means && run.outcome !== "PASS") parts.push(make("h3", {}, "What a failure means"), make("p", {}, run.failure_means));
  if (run.figures.length) parts.push(make("h3", {}, "Pictures"), make("div", { className: "pictures" }, ...run.figures.map(picture)));
  if (run.finished) parts.push(live);
  if (run.others.length) {
    parts.push(make("details", {}, make("summary", {}, `${run.others.length} more measurements, on which nothing depends`),
      table(["Metric", "Measured"], run.others.map((other) => [other.words, measured(other.measured)]))));
  }
  const evaluations = make("div");
  for (const training of run.trainings) {
    const place = make("div");
    curves(place, training.eval, training.part || "Looked at during training");
    evaluations.append(...place.children);
  }
  if (evaluations.childElementCount) parts.push(make("details", {}, make("summary", {}, "What was looked at during training"), evaluations));
  if (run.notices.length) parts.push(make("h3", {}, "Notices"), make("ul", {}, ...run.notices.map((text) => make("li", {}, text))));
  const versions = Object.entries(run.versions).map(([name, version]) => `${name} ${version}`).join(", ");
  parts.push(make("h3", {}, "Run it again"), make("pre", {}, run.command),
    make("p", { className: "faint" }, [run.commit && `commit ${run.commit}${run.uncommitted_changes ? " with changes" : ""}`, versions].filter(Boolean).join("; ")));
  if (run.inputs.length) {
    parts.push(make("p", {}, "Builds on ", ...run.inputs.flatMap(({ phase, name, id }, i) => [i ? ", " : "", id ? make("a", { href: away(id) }, `${phase}: ${name}`) : `${phase}: ${name}`])));
  }
  if (run.problems.length) parts.push(make("h3", {}, "Noticed"), make("ul", {}, ...run.problems.map((text) => make("li", {}, text))));
  if (run.report) parts.push(make("p", {}, make("a", { href: run.report, target: "_blank", rel: "noopener" }, "The whole report, on a page of its own")));
  $("run").replaceChildren(...parts);
  const several = run.trainings.length > 1;
  const open = (part) => !several || (!run.finished && part === run.writing);
  const placeOf = placesIn(live);
  for (const { part, train } of run.trainings) curves(placeOf(part, open(part)), train, part ? "" : "Training");
  if (!run.finished) follow(address, live, placeOf, run.writing);
}

// A run that was not the declared one opens no gate, whatever it says. One on another corpus opens that one's.
function departures(run) {
  const said = [];
  if (run.pushed) said.push(`It was pushed past a shut gate: ${run.pushed}.`);
  for (const corpus of on(run.corpus)) said.push(`It is about the corpus ${corpus}, whose runs are a ladder of their own.`);
  const changed = Object.entries(run.overrides ?? {}).map(([key, value]) => `${key}=${value}`);
  if (changed.length) said.push(`Its config was changed by hand: ${changed.join(", ")}.`);
  if (run.remedies_applied?.length) said.push(`Remedies were applied: ${run.remedies_applied.join("; ")}.`);
  if (!run.declared) said.push("It opens no gate.");
  return said.length ? [make("p", { className: "warning" }, said.join(" "))] : [];
}

function findings(rows) {
  return table(["What was asked", "Measured", "Outcome"], rows.map((finding) => [
    make("span", {}, `${finding.words} ${finding.bound}`, finding.why ? make("span", { className: "faint" }, ` (${finding.why})`) : ""),
    measured(finding.measured), verdict(finding.outcome),
  ]));
}

function picture({ name, caption, url }) {
  const image = make("img", { src: url, alt: caption || name, loading: "lazy" });
  return make("figure", {}, image, make("figcaption", { className: "faint" }, caption || name));
}

function curves(place, found, title) {
  const drawn = Object.entries(found).map(([name, points]) => drawCurve(name, points)).filter(Boolean);
  const head = title ? [make("h3", {}, title)] : [];
  place.replaceChildren(...(drawn.length ? [...head, make("div", { className: "curves" }, ...drawn)] : []));
}

// Where the curves of each training of a run stand, made when first asked for: those in a folder of their own under its name.
function placesIn(live) {
  const places = new Map();
  return (part, open) => {
    if (!places.has(part)) {
      const place = make("div");
      live.append(part ? make("details", { open }, make("summary", {}, `Training ${part}`), place) : place);
      places.set(part, place);
    }
    return places.get(part);
  };
}

// What a line of a log says, in a few words.
function told({ kind, text, step, loss, seconds, done, total, ...more }) {
  const of = total ? ` of ${total}` : "";
  if (kind === "train") return `step ${step}${of}, loss ${short(loss)}${seconds ? `, ${Math.round(seconds / 60)} min` : ""}`;
  if (text) return `${kind}: ${text}`;
  if (done !== undefined) return `${kind}: ${done}${of}`;
  const rest = Object.entries({ step, loss, ...more }).filter(([, value]) => ["number", "string"].includes(typeof value));
  return [kind, rest.map(([name, value]) => `${name} ${typeof value === "number" ? short(value) : value}`).join(", ")].filter(Boolean).join(": ");
}

// A run that is not finished: its newest lines every two seconds, or ten while it stands still, until it is done or another
// part of the page is opened. A phase of several trainings writes a log for each, so the one that grows is followed. Its
// figures are there to be read; heard are its beginning, a standstill and its end.
async function follow(address, live, placeOf, writing) {
  const encoded = (names) => names.split("/").map(encodeURIComponent).join("/");
  const figures = make("p");
  live.before(figures);
  const say = (line, text) => {
    if (line.textContent !== text) line.textContent = text;
  };
  const mine = following;
  const known = new Map(); // of each training, how far its log was read, and its curves
  let [missed, last] = [0, ""];
  for (;;) {
    const part = writing;
    const { after, found } = known.get(part) ?? { after: 0, found: {} };
    let answer;
    try {
      answer = await get(`api/runs/${encoded(address)}/${part ? `${encoded(part)}/` : ""}log?after=${after}`);
      missed = 0;
    } catch (error) {
      if (mine !== following || $("runs").hidden) return;
      writing = ""; // should it have gone: the run's own log, there or not, says which one grows
      missed += 1;
      for (const line of [figures, $("runs-told")]) say(line, error.message);
      if (missed > 5) return;
      await new Promise((next) => setTimeout(next, EVERY * missed));
      continue;
    }
    if (mine !== following || $("runs").hidden) return;
    const whole = answer.next === answer.total;
    if (answer.finished && whole) {
      openRuns(address, "The run has ended; what it found is shown.");
      return;
    }
    if (answer.next < after) { // cut back by a resume
      known.delete(part);
      continue;
    }
    known.set(part, { after: answer.next, found });
    for (const line of answer.lines.filter(({ kind }) => kind === "train")) {
      const terms = Object.entries(line.terms ?? {}).map(([name, value]) => [`terms.${name}`, value]);
      for (const [name, value] of [["loss", line.loss], ...terms]) (found[name] ??= []).push([line.step, value]);
    }
    if (answer.lines.length) last = told(answer.lines.at(-1));
    const [course, still] = answer.running ? ["Running", ""] : ["Not finished", ". Nothing was written for a while."];
    const which = part ? ` (${part})` : "";
    say(figures, `${course}${which}: ${last || "nothing was logged yet"}${still}`);
    say($("runs-told"), course + which + still);
    for (const [name, points] of Object.entries(found)) if (points.length > 400) found[name] = points.filter((_, i) => i % 2 === 0 || i === points.length - 1);
    if (Object.keys(found).length) curves(placeOf(part, true), found, part ? "" : "Training");
    if (!whole) continue;
    if (answer.writing === part) await new Promise((next) => setTimeout(next, answer.running ? EVERY : 5 * EVERY));
    else [writing, last] = [answer.writing, ""]; // the next training has begun
  }
}
