"""C3: at which ratio does each way of compressing a prompt still keep the answers?

Method: every compressor of the list is fitted at every ratio and answers the same held-out questions as the text run.
Row-wise ones make rows narrower and keep their number; the others put fewer vectors in the place of the context (pooled
rows; caches of keys and values, pruned as in SnapKV, Li et al. 2024). What is kept is F1 over the text run's F1 on the
same questions, with an interval over contexts. Truncation stands among them: what cannot beat the first tokens of the
context at the same number of vectors has kept nothing worth its name.
frontier.json and frontier.csv have every point with its price in bits. A ratio that a compressor cannot keep with this
model and these contexts is left out for it, and left_out.json says why; one that none of the list can keep is refused.

For each compressor and each of 95, 90 and 80 % the answer is the largest ratio at which so much is kept. Its interval
goes from the largest ratio at which the whole interval lies above, to the largest at which any of it does; 0 is none.

A negative result would mean that nothing that needs no training halves what a model is fed without losing answers.

Cost: quick two minutes on 2 CPU cores once the model is there; each point answers all questions once.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from inscape.compressors.interface import Compressor, row_width, vector_count
from inscape.compressors.kv_pruning import KvPruning
from inscape.compressors.linear_inverse import LinearInverse
from inscape.compressors.mean_pooled import MeanPooled
from inscape.compressors.pca import Pca
from inscape.compressors.quantised import Quantised
from inscape.compressors.random_orthogonal import RandomOrthogonal
from inscape.compressors.truncation import EqualVectors
from inscape.core.estimate import Estimate, bootstrap_mean
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir, write_atomically
from inscape.core.study import Context, Phase
from inscape.data.questions import Prompt
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.prompt_compression.asking import (
    AskingConfig,
    Heard,
    QuestionData,
    ask,
    check_asking,
    context_of,
    ids_of,
    open_model,
    prompts_of,
    training_questions,
)
from inscape.studies.prompt_compression.figures import draw_kept
from inscape.studies.prompt_compression.instrument import replay
from inscape.studies.prompt_compression.reconstruction import REPLAYED
from inscape.studies.prompt_compression.scoring import measure_answers, tell

__all__ = ["GATE", "LEVELS", "MAKERS", "PHASE", "Config", "Point", "largest_ratio"]

LEVELS = (0.95, 0.9, 0.8)  # shares of the text run's F1

# By name: a compressor of the ratio, given the ids in front of a context.
MAKERS: dict[str, Callable[[float, tuple[int, ...]], Compressor]] = {
    "pca": lambda ratio, _: Pca(ratio, wire="float16"),
    "pca_int8": lambda ratio, _: Quantised(Pca(ratio, wire="float16"), 8),
    "linear_inverse": lambda ratio, _: LinearInverse(Pca(ratio, wire="float16")),
    "random_orthogonal": lambda ratio, _: RandomOrthogonal(ratio, wire="float16"),
    "mean_pooled": lambda ratio, _: MeanPooled(ratio, wire="float16"),
    "kv_attention": lambda ratio, prefix: KvPruning(ratio, prefix=prefix),
    "kv_key_norm": lambda ratio, prefix: KvPruning(ratio, score="key_norm", prefix=prefix),
    "truncation": lambda ratio, _: EqualVectors(ratio),
}


@dataclass(frozen=True)
class Config:
    """Which compressors at which ratios."""

    data: QuestionData = field(default_factory=QuestionData)
    asking: AskingConfig = field(default_factory=AskingConfig)
    train: int = 2000  # training prompts that projections are fitted on
    compressors: tuple[str, ...] = tuple(MAKERS)
    ratios: tuple[float, ...] = (1.125, 1.5, 2.0, 4.0, 8.0)  # row-wise ones keep those that divide the width
    give_up: float = 0.5  # a compressor that surely keeps less of the F1 than this is not asked at larger ratios

    def __post_init__(self) -> None:
        unknown = [name for name in self.compressors if name not in MAKERS]
        if unknown or not self.compressors:
            raise ValueError(f"compressors={self.compressors} are not all known; allowed: {', '.join(MAKERS)}")
        if not self.ratios or min(self.ratios) < 1 or sorted(set(self.ratios)) != list(self.ratios):
            raise ValueError(f"ratios={self.ratios} are out of range; allowed: numbers from 1 on, rising")
        if not 2 <= self.train <= 10**7:
            raise ValueError(f"train={self.train} is out of range; allowed: 2 to 10000000")
        if not 0 <= self.give_up < min(LEVELS):
            raise ValueError(f"give_up={self.give_up} is out of range; allowed: from 0 to below {min(LEVELS)}")


GATE = Gate(
    (
        Criterion("replay_identical", at_least=1, role="control", source="calibrated", why="fed its own rows, the "
                  "model must write what it writes when fed ids"),
        Criterion("text_f1", at_least=0.1, role="control", source="calibrated", why="a share of nothing is no share"),
        Criterion("ratio_keeping_90", at_least=2, source="calibrated", why="the best that needs no training keeps nine "
                  "tenths of F1 at half the numbers, in rows half as wide or in half as many"),
        Criterion("ratio_keeping_90_in_fewer_vectors", at_least=2, source="calibrated", why="the same of those that "
                  "take up fewer places of the window: narrower rows save the model nothing"),
    )
)  # fmt: skip


class Point(NamedTuple):
    """One compressor at one ratio."""

    name: str
    ratio: float
    scores: dict[str, Estimate]


class LeftOut(NamedTuple):
    """A ratio that a compressor cannot keep."""

    name: str
    ratio: float
    why: str


def left_out(lm: LanguageModel, config: Config, prompts: Sequence[Prompt]) -> list[LeftOut]:
    """What cannot be kept with this model and these contexts. ValueError for a ratio that no compressor can keep."""
    shortest = min(len(prompt.context_ids) for prompt in prompts)
    found: list[LeftOut] = []
    for ratio in config.ratios:
        missing: list[LeftOut] = []
        for name in config.compressors:
            try:
                if MAKERS[name](ratio, ()).needs_context_only:
                    vector_count(shortest, ratio)
                else:
                    row_width(lm.dimension, ratio)
            except ValueError as error:
                missing.append(LeftOut(name, ratio, str(error)))
        if len(missing) == len(config.compressors):
            why = "; ".join(dict.fromkeys(one.why for one in missing))
            raise ValueError(f"ratios: none of {', '.join(config.compressors)} keeps {ratio:g}: {why}")
        found += missing
    return found


def check_model(lm: LanguageModel, config: Config) -> None:
    """ValueError where one of the compressors cannot read this model's attention or cache, found with one token."""
    unusable: dict[str, str] = {}
    for name in config.compressors:
        made = MAKERS[name](1.0, ())
        if isinstance(made, KvPruning):
            try:
                made.compress(lm, torch.zeros(1, dtype=torch.long, device=lm.device))
            except ValueError as error:
                unusable[name] = str(error).partition(";")[0]
    if unusable:
        others = [name for name in config.compressors if name not in unusable] or ["pca", "mean_pooled", "truncation"]
        raise ValueError(
            f"{' and '.join(unusable)} cannot be asked: {'; '.join(dict.fromkeys(unusable.values()))}; set "
            f"compressors=[{','.join(others)}]"
        )


def measure_points(
    lm: LanguageModel,
    config: Config,
    prompts: Sequence[Prompt],
    train: Sequence[Prompt],
    text: Heard,
    missing: Sequence[LeftOut],
    seed: int,
    run: RunDir,
) -> list[Point]:
    """Every compressor at every ratio but the missing ones, the ratios rising until it is given up.

    They are written to `run` as they come.
    """
    ids = {False: [ids_of(lm, p) for p in train], True: [context_of(lm, p) for p in train]}
    skipped = {(one.name, one.ratio) for one in missing}
    points: list[Point] = []
    for name in config.compressors:
        for ratio in config.ratios:
            if (name, ratio) in skipped:
                continue
            made = MAKERS[name](ratio, prompts[0].prefix_ids)
            fitted = made.fit(lm, ids[made.needs_context_only], seed=seed)
            told = tell(lm, fitted, prompts, config.asking)
            scores = measure_answers(told.heard, text, prompts)
            scores["bits_per_token"] = bootstrap_mean([fitted.bits(s) / s.tokens for s in told.sent], "prompts")
            points.append(Point(name, ratio, scores))
            write_points(run, points)
            if scores["f1_kept"].high < config.give_up:
                break
    return points


def largest_ratio(points: Iterable[Point], level: float) -> Estimate:
    """The largest ratio at which F1 over the text run's is at least `level`; see the module's words on its interval."""
    points = list(points)
    kept = [(point.ratio, point.scores["f1_kept"]) for point in points]

    def largest(side: Callable[[Estimate], float]) -> float:
        return max((ratio for ratio, estimate in kept if side(estimate) >= level), default=0.0)

    low, value, high = (largest(side) for side in (lambda e: e.low, lambda e: e.value, lambda e: e.high))
    return Estimate(value, min(low, value), max(high, value), len(points), "ratios")


def best(ratios: Iterable[Estimate]) -> Estimate:
    """That of the way which surely goes farthest."""
    return max(ratios, key=lambda estimate: (estimate.low, estimate.value, estimate.high))


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


def run(context: Context) -> Mapping[str, Estimate]:
    """Fit, answer, and say how far each can go."""
    config: Config = context.config
    lm = open_model(config.asking, context.device)
    check_model(lm, config)
    train = prompts_of(lm, training_questions(config.data, config.train, context.seed), config.asking)
    prompts, text = ask(lm, config.data, config.asking, lambda prompts: left_out(lm, config, prompts))
    missing = left_out(lm, config, prompts)
    said = say_left_out(context.run, missing)
    points = measure_points(lm, config, prompts, train, text, missing, context.seed, context.run)
    by_name = {name: [p for p in points if p.name == name] for name in dict.fromkeys(p.name for p in points)}
    curves = {n: [(p.ratio, p.scores["f1_kept"]) for p in of_name] for n, of_name in by_name.items()}
    draw_kept(context.run, "frontier.png", curves, "ratio: numbers of a row, or tokens a vector", "Share of the text "
              f"run's F1 that is left at each ratio, with its 95 % interval over contexts.{said}")  # fmt: skip
    of_text = measure_answers(text, text, prompts)
    metrics = {"text_f1": of_text["f1"], "text_exact_match": of_text["exact_match"]}
    metrics["replay_identical"] = replay(lm, prompts[:REPLAYED], text, config.asking)
    for level in LEVELS:
        share = f"ratio_keeping_{round(100 * level)}"
        found = {name: largest_ratio(of_name, level) for name, of_name in by_name.items()}
        metrics |= {f"{share}_{name}": estimate for name, estimate in found.items()}
        metrics[share] = best(found.values())
        if fewer := [found[name] for name in found if MAKERS[name](2.0, ()).needs_context_only]:
            metrics[f"{share}_in_fewer_vectors"] = best(fewer)
    return metrics


PHASE = Phase(
    code="C3",
    name="frontier",
    question="At which ratio does each way of compressing a prompt still keep the answers?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=("C0",),
    check=lambda config: check_asking(config.data, config.asking, config.train),
    failure_means="Nothing that needs no training halves what a model is fed without losing answers.",
)
