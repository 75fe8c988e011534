"""C3: at which ratio does each way of compressing a prompt still keep the answers?

Method: every compressor of the list is fitted at every ratio and answers the same held-out questions as the text run.
Row-wise ones make rows narrower and keep their number; the others put fewer vectors in the place of the context (pooled
rows; pooled contextual states, Li et al. 2025; caches of keys and values, pruned as in SnapKV, Li et al. 2024). Those
that C1, C2 and C4 trained stand beside them, each at its own ratio, where `trained` names their files. What is kept is
F1 over the text run's F1 on the same questions, with an interval over contexts. Truncation stands among them: what
cannot beat the first tokens of the context at the same number of vectors has kept nothing worth its name; and beside
each point stands what its bits would carry as plain ids (gain_over_equal_bits).
frontier.json and frontier.csv have every point with its price in bits. A ratio that a compressor cannot keep with this
model and these contexts is left out for it, and left_out.json says why; one that none of the list can keep is refused.

For each compressor and each of 95, 90 and 80 % the answer is the largest ratio up to which so much is kept: there, and
at every smaller one that was asked. Its interval goes from the largest ratio up to which the whole interval lies above,
to the largest up to which any of it does; 0 is none. Where it reaches the largest ratio that was asked, nobody knows
where it ends: its unit then says "right-censored", and the figure is a lower bound.

The best way is chosen on the same questions that show how far it goes. So the intervals that decide, f1_kept_of_many,
are at 1 - 0.05 / ways, by Bonferroni's correction over the ways of the list (Dunn 1961); the figures of each way are at
95 %. Ratios need no correction: those of a way are tested in their order, up to the first that fails.

A negative result would mean that nothing that needs no training halves what a model is fed without losing answers.

Cost: each point answers all questions once, and its truncation at equal bits once; quick is minutes on 2 CPU cores.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from inscape.compressors.controls import EmptyContext
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir, write_atomically
from inscape.core.study import Context, Phase
from inscape.data.questions import Prompt
from inscape.metrics.kept_share import CONFIDENCE, kept_share, mean_difference
from inscape.metrics.qa import mean_over_questions
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.prompt_compression.asking import (
    Asked,
    AskingConfig,
    QuestionData,
    ask,
    check_asking,
    check_groups_of,
    context_of,
    ids_of,
    keep_questions,
    open_model,
    prompts_of,
    training_questions,
)
from inscape.studies.prompt_compression.figures import draw_kept
from inscape.studies.prompt_compression.frontier_controls import explained_gap, leaked_gain
from inscape.studies.prompt_compression.instrument import replay
from inscape.studies.prompt_compression.reconstruction import REPLAYED
from inscape.studies.prompt_compression.scoring import (
    EMPTY_KEPT,
    UNIT,
    alone_of,
    answered,
    f1_of_each,
    f1_of_others,
    groups_of,
    measure_answers,
    measure_equal_bits,
    ratio_honoured,
    without_text_f1,
)
from inscape.studies.prompt_compression.ways import (
    MAKERS,
    ON_COMPONENTS,
    Known,
    LeftOut,
    Material,
    check_ways,
    fitted,
    known_of,
    left_out,
    load_trained,
)

__all__ = ["DECIDES", "GATE", "LEVELS", "PHASE", "Config", "Point", "largest_ratio", "ratios_kept"]

LEVELS = (0.95, 0.9, 0.8)  # shares of the text run's F1
DECIDES = "f1_kept_of_many"  # f1_kept, with an interval for the best of several ways
RATIOS, CENSORED = "ratios", "ratios, right-censored"  # units: the second where the largest one asked still holds


@dataclass(frozen=True)
class Config:
    """Which compressors at which ratios."""

    data: QuestionData = field(default_factory=QuestionData)
    asking: AskingConfig = field(default_factory=AskingConfig)
    train: int = 2000  # training prompts that projections are fitted on, half of them
    contexts: int = 2000  # of them, the first, that pooled states are fitted on: each is read at each ratio
    compressors: tuple[str, ...] = tuple(MAKERS)
    trained: tuple[str, ...] = ()  # files of compressors that C1, C2 or C4 trained; each is asked at its own ratio
    ratios: tuple[float, ...] = (1.125, 1.5, 2.0, 4.0, 8.0)  # row-wise ones keep those that divide the width
    give_up: float = 0.5  # a compressor that surely keeps less of the F1 than this is not asked at larger ratios

    def __post_init__(self) -> None:
        unknown = [name for name in self.compressors if name not in MAKERS]
        if unknown or not self.compressors:
            raise ValueError(f"compressors={self.compressors} are not all known; allowed: {', '.join(MAKERS)}")
        if not self.ratios or min(self.ratios) < 1 or sorted(set(self.ratios)) != list(self.ratios):
            raise ValueError(f"ratios={self.ratios} are out of range; allowed: numbers from 1 on, rising")
        for name in ("train", "contexts"):
            if not 2 <= getattr(self, name) <= 10**7:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: 2 to 10000000")
        if not 0 <= self.give_up < min(LEVELS):
            raise ValueError(f"give_up={self.give_up} is out of range; allowed: from 0 to below {min(LEVELS)}")


GATE = Gate(
    (
        Criterion("replay_identical", at_least=1, role="control", source="calibrated", why="fed its own rows, the "
                  "model must write what it writes when fed ids"),
        Criterion("text_f1", at_least=0.1, role="control", source="calibrated", why="a share of nothing is no share"),
        Criterion("gain_of_context", at_least=0.05, role="control", source="calibrated", why="F1 with the context less "
                  "F1 with an empty one: answers from memory survive any compression"),
        EMPTY_KEPT,
        Criterion("ratio_honoured", at_least=1, role="control", source="calibrated", why="share of prompts, at every "
                  "point that needs no training, fed in as few rows, or positions, as the ratio says: more keep more"),
        Criterion("travels_alone", at_least=1, role="control", source="calibrated", why="a receiver that looks at the "
                  "source was told what nobody sent; at every such point"),
        Criterion("shuffled_gain", at_most=0.1, role="control", source="calibrated", why="what is answered to another "
                  "prompt, by the way that decides, must be right no oftener than to an empty context"),
        Criterion("leaked_gain", at_most=0.1, role="control", source="calibrated", why="another context under one's "
                  "own question, compressed by the way that decides, must answer no better than in plain text"),
        Criterion("explained_gap", at_most=0.05, role="control", source="calibrated", why="variance that PCA explains "
                  "of the rows it was fitted on, less that of held-out prompts: fitted on too few it keeps too little"),
        Criterion("equal_bits_honoured", at_least=1, role="control", source="calibrated", why="truncation at equal "
                  "bytes gets the ids that the same bits carry: more would outdo, fewer flatter what it stands beside"),
        Criterion("ratio_keeping_90", at_least=2, source="calibrated", why="the best that needs no training keeps nine "
                  "tenths of F1 at half the numbers, in rows half as wide or in half as many"),
        Criterion("ratio_keeping_90_in_fewer_vectors", at_least=2, source="calibrated", why="the same of those that "
                  "take up fewer places of the window: narrower rows save the model nothing"),
    )
)  # fmt: skip


def gate_for(config: Config) -> Gate:
    """Less what these settings leave nothing to ask of: the text's own answers, and components."""
    gate = without_text_f1(GATE, config.asking)
    if set(config.compressors) & set(ON_COMPONENTS):
        return gate
    return Gate(c for c in gate.criteria if c.metric != "explained_gap")


class Point(NamedTuple):
    """One compressor at one ratio."""

    name: str
    ratio: float
    scores: dict[str, Estimate]


def measure_points(
    lm: LanguageModel,
    config: Config,
    asked: Asked,
    empty: Sequence[float],
    material: Material,
    missing: Sequence[LeftOut],
    run: RunDir,
) -> list[Point]:
    """Every compressor at every ratio but the missing ones, the ratios rising until it is given up.

    They are written to `run` as they come. empty: F1 of each prompt without its context.
    """
    (prompts, text), asking = asked, config.asking
    drawn: dict[str, Any] = {"groups": groups_of(prompts), "unit": UNIT}
    of_many = 1 - (1 - CONFIDENCE) / len(set(config.compressors))
    of_text = f1_of_each(text, prompts)
    ways = [(name, ratio) for name in config.compressors for ratio in config.ratios] + list(material.trained)
    skipped, given_up = {(one.name, one.ratio) for one in missing}, set[str]()
    points: list[Point] = []
    for name, ratio in ways:
        if (name, ratio) in skipped or name in given_up:
            continue
        compressor = fitted(lm, name, ratio, material)
        told = answered(lm, compressor, prompts, asking)
        scores = measure_answers(told.heard, text, prompts)
        bits = [bits / tokens for bits, tokens in zip(told.bits, told.tokens, strict=True)]
        own = f1_of_each(told.heard, prompts)
        scores[DECIDES] = kept_share(own, of_text, mostly_whole=True, confidence=of_many, **drawn)
        scores["bits_per_token"] = mean_over_questions(bits, **drawn)
        others = f1_of_others(told.heard.answers, prompts, material.seed)
        scores["shuffled_gain"] = mean_difference(others, empty, **drawn)
        budgets = told.bits if compressor.needs_context_only else []
        scores |= measure_equal_bits(lm, compressor, prompts, asking, text, told.heard, budgets)
        scores["ratio_honoured"] = ratio_honoured(lm, compressor, ratio, prompts, told.places, told.numbers)
        scores["travels_alone"] = exact(float(alone_of(lm, compressor, prompts)), 1, "pairs of prompts")
        points.append(Point(name, ratio, scores))
        write_points(run, points)
        if scores["f1_kept"].high < config.give_up:
            given_up.add(name)
    return points


def largest_ratio(points: Iterable[Point], level: float, score: str = "f1_kept") -> Estimate:
    """The largest ratio up to which F1 over the text run's is at least `level`; see the module's words on its interval.

    score: what is kept, f1_kept or DECIDES. The unit is `CENSORED` where the interval ends at the largest ratio of the
    points: it may end anywhere beyond.
    """
    kept = sorted(((point.ratio, point.scores[score]) for point in points), key=lambda each: each[0])

    def largest(side: Callable[[Estimate], float]) -> float:
        return max((ratio for ratio, _ in takewhile(lambda each: side(each[1]) >= level, kept)), default=0.0)

    low, value, high = (largest(side) for side in (lambda e: e.low, lambda e: e.value, lambda e: e.high))
    unit = CENSORED if max(high, value) == max(ratio for ratio, _ in kept) else RATIOS
    return Estimate(value, min(low, value), max(high, value), len(kept), unit)


def best(ratios: Mapping[str, Estimate]) -> str:
    """Which way surely goes farthest."""
    return max(ratios, key=lambda name: (ratios[name].low, ratios[name].value, ratios[name].high))


def ratios_kept(by_name: Mapping[str, Sequence[Point]]) -> tuple[dict[str, Estimate], set[tuple[str, float]]]:
    """Largest ratios of each way and of the best, and the points that decide: those of the best ways at nine tenths.

    The best are among those that need no training, judged by DECIDES, and the ratios of the best by it too. One that
    keeps too little everywhere decides at its smallest ratio.
    """
    metrics: dict[str, Estimate] = {}
    deciding: set[tuple[str, float]] = set()
    for level in LEVELS:
        share = f"ratio_keeping_{round(100 * level)}"
        metrics |= {f"{share}_{name}": largest_ratio(points, level) for name, points in by_name.items()}
        untrained = {name: largest_ratio(by_name[name], level, DECIDES) for name in by_name if name in MAKERS}
        fewer = {name: e for name, e in untrained.items() if MAKERS[name](2.0, Known()).needs_context_only}
        for metric, ways in ((share, untrained), (f"{share}_in_fewer_vectors", fewer)):
            if ways:
                name = best(ways)
                metrics[metric] = ways[name]
                if level == 0.9:
                    deciding.add((name, ways[name].value or by_name[name][0].ratio))
    return metrics, deciding


def measure_controls(
    lm: LanguageModel,
    config: Config,
    asked: Asked,
    empty: Sequence[float],
    material: Material,
    points: Sequence[Point],
    deciding: Collection[tuple[str, float]],
) -> dict[str, Estimate]:
    """What must hold for the points to be believed; of those that decide, the worst counts."""
    (prompts, text), asking = asked, config.asking
    drawn: dict[str, Any] = {"groups": groups_of(prompts), "unit": UNIT}
    of_text = f1_of_each(text, prompts)
    decides = [point.scores for point in points if (point.name, point.ratio) in deciding]
    worst = {
        name: min((p.scores[name] for p in points if p.name in MAKERS), key=lambda estimate: estimate.value)
        for name in ("ratio_honoured", "travels_alone", "equal_bits_honoured")
    }
    if set(config.compressors) & set(ON_COMPONENTS):
        asked_at = [point.ratio for point in points if point.name in ON_COMPONENTS]
        worst["explained_gap"] = explained_gap(lm, asked_at, prompts, material)
    return {
        "replay_identical": replay(lm, prompts[:REPLAYED], text, asking),
        "gain_of_context": mean_difference(of_text, empty, **drawn),
        "empty_f1_kept": kept_share(empty, of_text, mostly_whole=True, **drawn),
        "shuffled_gain": max((scores["shuffled_gain"] for scores in decides), key=lambda e: e.high),
        "leaked_gain": leaked_gain(lm, prompts, asking, material, deciding),
        "gain_over_equal_bits": min((scores["gain_over_equal_bits"] for scores in decides), key=lambda e: e.low),
        **worst,
    }


def write_points(run: RunDir, points: Sequence[Point]) -> None:
    """Every point, as JSON and as a table."""
    rows: list[dict[str, Any]] = [
        {"compressor": p.name, "ratio": p.ratio, **{n: e.to_json() for n, e in p.scores.items()}} for p in points
    ]
    run.write_json("frontier.json", rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = list(points[0].scores) if points else []
    writer.writerow(["compressor", "ratio", *(f"{n}{end}" for n in names for end in ("", "_low", "_high"))])
    for p in points:
        values = [v for n in names for e in (p.scores[n],) for v in (e.value, e.low, e.high)]
        writer.writerow([p.name, p.ratio, *(f"{value:.6g}" for value in values)])
    write_atomically(run.path / "frontier.csv", buffer.getvalue())


def say_left_out(run: RunDir, missing: Sequence[LeftOut]) -> str:
    """One sentence on what is left out, empty where nothing is; kept as left_out.json and said on standard error."""
    if not missing:
        return ""
    run.write_json("left_out.json", [one._asdict() for one in missing])
    said = f"Left out, since they cannot be kept: {', '.join(f'{one.name} at {one.ratio:g}' for one in missing)}."
    print(f"{said} {run.path / 'left_out.json'} says why", file=sys.stderr)
    return f" {said}"


def label(name: str, points: Sequence[Point]) -> str:
    """What the picture calls a way: with the largest share of F1 that it still keeps at the largest ratio asked."""
    held = [level for level in LEVELS if points[-1].scores["f1_kept"].value >= level]
    return f"{name} (≥ {100 * held[0]:.0f} % to the end)" if held else name


def draw(run: RunDir, by_name: Mapping[str, Sequence[Point]], said: str) -> None:
    """The picture of all ways."""
    curves = {label(n, points): [(p.ratio, p.scores["f1_kept"]) for p in points] for n, points in by_name.items()}
    draw_kept(run, "frontier.png", curves, "ratio: numbers of a row, or tokens a vector", "Share of the text "
              "run's F1 that is left at each ratio, with its 95 % interval over contexts. Where the legend says to the "
              f"end, the largest ratio asked is only a lower bound of the ratio that can be kept.{said}")  # fmt: skip


def check(config: Config) -> None:
    """ValueError on files that are not there or cannot be used."""
    check_asking(config.data, config.asking, config.train, shuffled=True)
    load_trained(config.trained)


def run(context: Context) -> Mapping[str, Estimate]:
    """Fit, answer, and say how far each can go."""
    config: Config = context.config
    trained = load_trained(config.trained)
    lm = open_model(config.asking, context.device)
    train = prompts_of(lm, training_questions(config.data, config.train, context.seed), config.asking)
    check_ways(lm, config.compressors, trained, known_of(lm, train))

    def missing_of(prompts: Sequence[Prompt]) -> list[LeftOut]:
        check_groups_of(prompts)
        return left_out(lm, config.compressors, config.ratios, trained, prompts)

    asked = ask(lm, config.data, config.asking, missing_of)
    missing = missing_of(asked.prompts)
    said = say_left_out(context.run, missing)
    ids = {False: [ids_of(lm, p) for p in train], True: [context_of(lm, p) for p in train[: config.contexts]]}
    material = Material(trained, known_of(lm, train), ids, context.seed)
    empty = f1_of_each(answered(lm, EmptyContext(), asked.prompts, config.asking).heard, asked.prompts)
    points = measure_points(lm, config, asked, empty, material, missing, context.run)
    keep_questions(context.run, config.data, config.asking, train)
    by_name = {name: [p for p in points if p.name == name] for name in dict.fromkeys(p.name for p in points)}
    draw(context.run, by_name, said)
    of_text = measure_answers(asked.text, asked.text, asked.prompts)
    ratios, deciding = ratios_kept(by_name)
    return {
        "text_f1": of_text["f1"],
        "text_exact_match": of_text["exact_match"],
        **measure_controls(lm, config, asked, empty, material, points, deciding),
        **ratios,
    }


PHASE = Phase(
    code="C3",
    name="frontier",
    question="At which ratio does each way of compressing a prompt still keep the answers?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    gate_for=gate_for,
    run=run,
    needs=("C0",),
    check=check,
    failure_means="Nothing that needs no training halves what a model is fed without losing answers.",
)
