// The last part: what was run, what came of it, and how a training that is running gets on.

import { get } from "./backend.js";
import { drawCurve, short } from "./plots.js";

const $ = (id) => document.getElementById(id);
const SIGNS = { PASS: "✓", FAIL: "✗", INVALID: "⊘", INCONCLUSIVE: "?", PARTIAL: "◐", UNFINISHED: "…", UNREADABLE: "✗" };
const EVERY = 2000; // milliseconds between two looks at a log

let opened = ""; // the address that is shown; an answer for another one is dropped

export async function openRuns(address) {
  opened = address;
  $("runs-problem").textContent = "";
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

function showList({ studies, unreadable }) {
  const parts = studies.flatMap((study) => [
    make("h3", {}, `${study.name}: ${study.title}`),
    make("p", { className: "faint" }, study.hypothesis),
    ...study.phases.flatMap((phase) => phase.presets.map((preset) => make("details", { open: preset.runs.some((run) => run.running) },
      make("summary", {}, `${phase.code} ${phase.name}, ${preset.preset} `, verdict(preset.standing)),
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
    make("p", {}, run.question),
    make("p", {}, [run.sentence, run.done].filter(Boolean).join(" ")),
  ];
  if (run.running) parts.push(live);
  for (const source of ["plan", "calibrated"]) {
    const rows = run.findings.filter((finding) => finding.source === source && finding.role === "claim");
    if (rows.length) parts.push(make("h3", {}, source === "plan" ? "The plan's criteria" : "Calibrated criteria"), findings(rows));
  }
  const controls = run.findings.filter((finding) => finding.role === "control");
  if (controls.length) parts.push(make("h3", {}, "Controls"), findings(controls));
  if (run.failure_means && run.outcome !== "PASS") parts.push(make("h3", {}, "What a failure means"), make("p", {}, run.failure_means));
  if (run.figures.length) parts.push(make("h3", {}, "Pictures"), make("div", { className: "pictures" }, ...run.figures.map(picture)));
  if (!run.running) parts.push(live);
  if (run.others.length) {
    parts.push(make("details", {}, make("summary", {}, `${run.others.length} more measurements, on which nothing depends`),
      table(["Metric", "Measured"], run.others.map((other) => [other.words, measured(other.measured)]))));
  }
  parts.push(make("h3", {}, "Run it again"), make("pre", {}, run.command));
  if (run.problems.length) parts.push(make("h3", {}, "Noticed"), make("ul", {}, ...run.problems.map((text) => make("li", {}, text))));
  if (run.report) parts.push(make("p", {}, make("a", { href: run.report, target: "_blank", rel: "noopener" }, "The whole report, on a page of its own")));
  $("run").replaceChildren(...parts);
  curves(live, run.curves.train);
  if (run.running) follow(address, live, run.writing);
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

function curves(place, found) {
  const drawn = Object.entries(found ?? {}).map(([name, points]) => drawCurve(name, points)).filter(Boolean);
  place.replaceChildren(...(drawn.length ? [make("h3", {}, "Training"), make("div", { className: "curves" }, ...drawn)] : []));
}

// A running training: its newest lines every two seconds, until it is done or another part of the page is opened. A phase
// of several trainings writes a log for each, so the one that grows is followed.
async function follow(address, place, writing) {
  const path = address.split("/").map(encodeURIComponent).join("/");
  const told = make("p", { role: "status" });
  place.before(told);
  let found = {};
  let after = 0;
  for (;;) {
    let answer;
    try {
      answer = await get(`api/runs/${path}/${writing ? `${encodeURIComponent(writing)}/` : ""}log?after=${after}`);
    } catch (error) {
      told.textContent = error.message;
      return;
    }
    if (address !== opened || $("runs").hidden) return;
    if (answer.finished && answer.next === answer.total) {
      openRuns(address);
      return;
    }
    if (answer.next < after || answer.writing !== writing) { // cut back by a resume, or the next training has begun
      [found, after, writing] = [{}, 0, answer.writing];
      continue;
    }
    after = answer.next;
    for (const line of answer.lines.filter(({ kind }) => kind === "train")) {
      const terms = Object.entries(line.terms ?? {}).map(([name, value]) => [`terms.${name}`, value]);
      for (const [name, value] of [["loss", line.loss], ...terms]) (found[name] ??= []).push([line.step, value]);
      const minutes = line.seconds ? `, ${Math.round(line.seconds / 60)} min` : "";
      told.textContent = `Running${writing ? ` (${writing})` : ""}: step ${line.step}, loss ${short(line.loss)}${minutes}`;
    }
    curves(place, found);
    if (!answer.running) told.textContent += ". Nothing was written for a while.";
    if (after === answer.total) await new Promise((next) => setTimeout(next, EVERY));
  }
}
