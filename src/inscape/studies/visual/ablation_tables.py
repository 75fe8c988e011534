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

import numpy as np

from inscape.core.estimate import Estimate
from inscape.studies.visual.ablation_drawing import TABLES
from inscape.studies.visual.ablation_effects import AGAIN, ANEW, TARGETS, Loss, largest_losses, losses_over_seeds
from inscape.studies.visual.ablation_variants import CORE, REFERENCE, VARIANTS

__all__ = ["main", "tables"]

# What is shown beside the targets, and what of cost.
BESIDE = ("recall_at_5", "scene_exact_seen", "sentence_exact", "spectral_slope", "gradient_kurtosis", "total_variation")
COST = ("parameters", "bytes_of_a_latent", "seconds_a_step", "encoded_a_second", "decoded_a_second")

Figures = Mapping[str, Mapping[str, Sequence[float]]]  # variant -> metric -> one value a seed


def tables(folders: Sequence[Path]) -> str:
    """Means over the runs in `folders`, one a seed; what each variant surely loses; cost.

    ValueError where there are fewer than two runs, or one of them is no evidence of P7.
    """
    if len(folders) < 2:
        raise ValueError(f"wanted the evidence of two seeds or more, given {len(folders)}")
    metrics = {seed: _metrics(folder) for seed, folder in enumerate(folders)}
    figures = _figures(folders)
    losses = losses_over_seeds(metrics)
    metrics_shown = [*TARGETS, *BESIDE]
    parts = [_means(figures, losses, metrics_shown), _surest(losses), _means(figures, {}, COST)]
    return "\n\n".join(parts) + "\n"


def _metrics(folder: Path) -> dict[str, Estimate]:
    try:
        stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return {name: Estimate.from_json(fields) for name, fields in stored.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'metrics.json'} cannot be read: {error}") from None


def _figures(folders: Sequence[Path]) -> Figures:
    found: dict[str, dict[str, list[float]]] = {}
    for folder in folders:
        try:
            rows = list(csv.DictReader((folder / TABLES).read_text(encoding="utf-8").splitlines()))
        except OSError as error:
            raise ValueError(f"{folder / TABLES} cannot be read: {error.strerror}") from None
        for row in rows:
            found.setdefault(row["variant"], {}).setdefault(row["metric"], []).append(float(row["value"]))
    return found


def _means(figures: Figures, losses: Mapping[str, Mapping[str, Loss]], metrics: Sequence[str]) -> str:
    """A row a metric, a column a variant. Marked: worse (▼) or better (▲) than the noise of training explains."""
    variants = [name for name in VARIANTS if name in figures]
    lines = [f"| | {' | '.join(f'`{name}`' for name in variants)} |", "|---" * (1 + len(variants)) + "|"]
    for metric in metrics:
        cells = []
        for name in variants:
            values, loss = figures[name].get(metric), losses.get(name, {}).get(metric)
            mark = "" if loss is None else "▼" if loss.seen else "▲" if loss.gain_seen else ""
            cells.append(f"{np.mean(values):.4g}{mark}" if values else "-")
        lines.append(f"| {metric.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _surest(losses: Mapping[str, Mapping[str, Loss]]) -> str:
    """A row a variant: the target in which it loses most surely."""
    lines = [
        "| variant | held against | loses most surely | by seed | in noise of training | matters |",
        "|---" * 6 + "|",
    ]
    for name, loss in largest_losses(losses).items():
        if name in (REFERENCE, AGAIN, ANEW) or not math.isfinite(loss.value):
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
