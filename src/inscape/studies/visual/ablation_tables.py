"""P7's figures of all seeds as tables in Markdown, out of its committed evidence.

python -m inscape.studies.visual.ablation_tables results/visual/P7/small
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inscape.core.estimate import Estimate
from inscape.data.scenes import EDITS
from inscape.stats.beta_tail import student_quantile
from inscape.studies.visual.ablation_drawing import TABLES
from inscape.studies.visual.ablation_effects import (
    AGAIN,
    ANEW,
    MUTE,
    SHOWN,
    TARGETS,
    Loss,
    largest_losses,
    losses_over_seeds,
)
from inscape.studies.visual.ablation_variants import CORE, REFERENCE, VARIANTS

__all__ = ["main", "tables"]

# What stands together in one table: metrics of which some are targets, and at last what things cost.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Found": ("recall_at_1", "recall_at_1_under_shift", "recall_at_5"),
    "Told apart": ("told_apart_swaps", *(f"told_apart_{edit}" for edit in EDITS)),
    "Read back": ("scene_exact", "scene_exact_seen", "generalisation_gap", "sentence_exact"),
    "The best of k paraphrases": ("graph_f1", "rouge_l", "round_trip_cosine"),
    "All k samples": tuple(f"{n}_of_all_samples" for n in ("rouge_l", "copied_runs", "round_trip_cosine")),
    "The picture, in the photographs' bands": tuple(name for name in TARGETS if name.endswith("_in_photo_band")),
    "The picture": ("channel_correlation", "amplitude", "spectral_slope", "gradient_kurtosis", "total_variation"),
    "Cost": (
        *("parameters", "bytes_of_a_latent", "seconds_a_step", "trained_a_second", "encoded_a_second"),
        *("decoded_a_second", "gigabytes_at_most", "gigabytes_resident_at_most"),
    ),
}
CONFIDENCE = 0.95  # of a mean over seeds
PICTURELESS = ("no_image", "noise_grid", "plain_vector")  # what says whether looking like a picture helps or costs
LEGEND = (
    "A cell: the mean over seeds with its 95 % interval over trainings, no narrower than over sentences; then what is "
    "lost beside the variant that it is held against, with the interval for all targets together, above 0 is worse. "
    "▼ worse and ▲ better than the noise of training explains, with every seed. Figures of cost have no interval."
)


class _Figure(NamedTuple):
    """One metric of one variant and seed, with its interval over sentences where it has one."""

    value: float
    half: float  # half the width of that interval; 0 where there is none


Figures = Mapping[str, Mapping[str, Sequence[_Figure]]]  # variant -> metric -> one a seed


def tables(folders: Sequence[Path]) -> str:
    """Figures and losses with their intervals, of the runs in `folders`, one a seed; what each variant surely loses;
    whether looking like a picture helps what was never trained on.

    ValueError where there are fewer than two runs, or one of them is no evidence of P7.
    """
    if len(folders) < 2:
        raise ValueError(f"wanted the evidence of two seeds or more, given {len(folders)}")
    metrics = {seed: _metrics(folder) for seed, folder in enumerate(folders)}
    figures = _figures(folders)
    losses = losses_over_seeds(metrics)
    shown = losses_over_seeds(metrics, SHOWN)
    both = {name: losses.get(name, {}) | shown.get(name, {}) for name in VARIANTS}
    parts = [_surest(losses), _generalisation(figures, both), LEGEND]
    parts += [f"{title}\n\n{table}" for title, names in GROUPS.items() if (table := _group(figures, both, names))]
    return "\n\n".join(parts) + "\n"


def _metrics(folder: Path) -> dict[str, Estimate]:
    try:
        stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return {name: Estimate.from_json(fields) for name, fields in stored.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'metrics.json'} cannot be read: {error}") from None


def _figures(folders: Sequence[Path]) -> Figures:
    found: dict[str, dict[str, list[_Figure]]] = {}
    for folder in folders:
        try:
            rows = list(csv.DictReader((folder / TABLES).read_text(encoding="utf-8").splitlines()))
        except OSError as error:
            raise ValueError(f"{folder / TABLES} cannot be read: {error.strerror}") from None
        for row in rows:
            half = (float(row["high"]) - float(row["low"])) / 2 if row["low"] and row["high"] else 0.0
            figure = _Figure(float(row["value"]), half)
            found.setdefault(row["variant"], {}).setdefault(row["metric"], []).append(figure)
    return found


def _group(figures: Figures, losses: Mapping[str, Mapping[str, Loss]], metrics: Sequence[str]) -> str:
    """A row a variant, a column for each of the metrics that any has; empty without any."""
    variants = [name for name in VARIANTS if name in figures]
    columns = [metric for metric in metrics if any(metric in figures[name] for name in variants)]
    if not columns:
        return ""
    lines = [f"| | {' | '.join(metric.replace('_', ' ') for metric in columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name in variants:
        cells = [_cell(figures[name].get(metric), losses[name].get(metric)) for metric in columns]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(seeds: Sequence[_Figure] | None, loss: Loss | None) -> str:
    if not seeds:
        return "-"
    return _value(seeds) if loss is None else f"{_value(seeds)}; lost {_lost(loss)}"


def _value(seeds: Sequence[_Figure]) -> str:
    """The mean over seeds; Student's interval of it, and at least as wide as that over sentences, which are the same
    for all seeds."""
    values, count = np.array([each.value for each in seeds]), len(seeds)
    mean, over_sentences = values.mean(), max(each.half for each in seeds)
    if not over_sentences:
        return f"{mean:.4g}"
    over_trainings = math.inf
    if count > 1:
        over_trainings = student_quantile(CONFIDENCE, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    half = max(over_sentences, over_trainings)
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def _lost(loss: Loss) -> str:
    """In the target's units."""
    if not math.isfinite(loss.value):
        return "nothing"
    value, low, high = (x * loss.noise for x in (loss.value, loss.low, loss.high))
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]{'▼' if loss.seen else '▲' if loss.gain_seen else ''}"


def _generalisation(figures: Figures, losses: Mapping[str, Mapping[str, Loss]]) -> str:
    """Does looking like a picture help with combinations that were never trained on, or does it cost?

    It helps where without it the gap to seen combinations widens and fewer held-out scenes come back, and costs where
    the gap narrows and more come back, all beyond noise. The gap alone says nothing: what reads nothing back has none.
    """
    metrics = ("scene_exact_seen", "scene_exact", "generalisation_gap")
    header = "| combinations | seen | held out | gap | held out, lost | gap, lost | looking like a picture |"
    lines = [header, "|---" * 7 + "|"]
    for name in (REFERENCE, *PICTURELESS):
        if name not in figures:
            continue
        cells = [_value(figures[name][metric]) if metric in figures[name] else "-" for metric in metrics]
        exact, gap = (losses.get(name, {}).get(metric) for metric in metrics[1:])
        lost = ["" if each is None else _lost(each) for each in (exact, gap)]
        answer = "" if name == REFERENCE else _answer(exact, gap)
        lines.append(f"| `{name}` | {' | '.join([*cells, *lost, answer])} |")
    return "\n".join(lines)


def _answer(exact: Loss | None, gap: Loss | None) -> str:
    if exact is not None and gap is not None:
        if gap.seen and exact.seen:
            return "helps"
        if gap.gain_seen and exact.gain_seen:
            return "costs"
    return "not shown"


def _surest(losses: Mapping[str, Mapping[str, Loss]]) -> str:
    """A row a variant: the target in which it loses most surely."""
    lines = [
        "| variant | held against | loses most surely | by seed | in noise of training | matters |",
        "|---" * 6 + "|",
    ]
    for name, loss in largest_losses(losses).items():
        if name in (REFERENCE, AGAIN, ANEW, MUTE) or not math.isfinite(loss.value):
            continue
        seeds = ", ".join(f"{value:+.3f}" for value in loss.by_seed)
        noise = f"{loss.value:.1f} [{loss.low:.1f}, {loss.high:.1f}]"
        answer = ("yes" if loss.seen else "not shown") if name in CORE else ("worse" if loss.seen else "not shown")
        target = loss.target.replace("_", " ")
        lines.append(f"| `{name}` | `{VARIANTS[name].beside}` | {target} | {seeds} | {noise} | {answer} |")
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Print the tables of the folder of seeds that is named; returns the exit status."""
    if len(words) != 1:
        print("give the folder with P7's evidence, e.g. results/visual/P7/small", file=sys.stderr)
        return 2
    try:
        print(tables(sorted(path.parent for path in Path(words[0]).glob("*/metrics.json"))), end="")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
