"""A3: do the coarse keys sort contexts by sound, into clusters that are filled and that new recordings share?

Method: three schemes turn the 8 frames of a context into the number of a cluster: k-means of their mean (Lloyd 1982,
with the seeding of Arthur & Vassilvitskii 2007), k-means of 8 principal components of the stacked frames, and these
components cut at their quartiles. Each is fitted once per lag, on all train frames, from streamed sums; what is fitted
is written and read again. No step is predicted here: what is checked is whether a later prediction could mean anything.

A negative result would mean that a later PASS could be one of few frames that happen to be easy, of single voices or
of loudness alone, and a later FAIL one of clusters that are none.

Cost: quick about half a minute on one CPU core; 100 hours of Mimi about half an hour.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.study import Context, Phase
from inscape.stats.conditioning import Conditioning, ConditioningConfig, fit_conditioning, load_conditioning
from inscape.stats.context_windows import HELD_OUT, Utterances, Windows
from inscape.stats.kmeans import KMeansConfig
from inscape.stats.streamed_pca import ContextMoments, Survey, accumulate_moments, context_covariance, survey
from inscape.studies.audio_structure.clustering_checks import SchemeChecks, check_schemes, differing_labels
from inscape.studies.audio_structure.eligible_frames import FrameRule, eligible_utterances, miscounted
from inscape.studies.audio_structure.latents import OF
from inscape.studies.audio_structure.sources import SpeechConfig, check_codec_kind

__all__ = ["GATE", "PHASE", "SUMMARY", "Config", "read_checks", "read_schemes", "schemes_of", "windows_of"]

FOLDER, SUMMARY = "conditioning", "conditioning.json"
WITH_CENTROIDS = 2  # the first two schemes; the cells of the third are none that anything settled into


@dataclass(frozen=True)
class Config:
    """The schemes. The defaults are the plan's."""

    data: SpeechConfig = field(default_factory=SpeechConfig)  # A0's
    lags: tuple[int, ...] = (1, 2, 4)  # frames from a context's end to its target; the largest is A2's max_lag
    mean_clusters: int = 64  # of the mean frame
    components: int = 8  # of the stacked frames
    score_clusters: int = 256  # of the components
    restarts: int = 10  # k-means++ starts, the best wins
    iterations: int = 100  # of Lloyd's algorithm, at most
    seed: int = 42  # of k-means, and of the control's permutations
    min_cluster: int = 100  # train frames of a cluster that counts

    def __post_init__(self) -> None:
        for name, low, high in (
            ("mean_clusters", 2, 4096),
            ("components", 1, 10),
            ("score_clusters", 2, 4096),
            ("restarts", 1, 1000),
            ("iterations", 1, 10_000),
            ("seed", 0, 2**31 - 1),
            ("min_cluster", 1, 10**6),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: {low} to {high}")
        if self.lags[:1] != (1,) or sorted(set(self.lags)) != list(self.lags):
            raise ValueError(
                f"lags={list(self.lags)}: wanted are ascending numbers of frames that begin with 1, on which the "
                "decision is, such as [1,2,4]"
            )


# Of the scheme with centroids that leaves out the fewest frames, at its worst lag; every scheme is in metrics.json.
GATE = Gate(
    (
        Criterion("frames_unlike_table", at_most=0, role="control", source="calibrated", why="the schemes are fitted "
                  "on the frames of A2's table and no others"),
        Criterion("reload_errors", at_most=0, role="control", source="calibrated", why="later phases read the schemes "
                  "from their files; these must give the numbers that were fitted"),
        Criterion("excluded_share", at_most=0.1, why="excluded mass > 10 % means the clustering is too fine: a ratio "
                  "would be that of the few sounds that are left"),
        Criterion("clusters_used", at_least=8, source="calibrated", why="the effective number: one cluster that holds "
                  "nearly all frames explains nothing, whatever there is to explain"),
        Criterion("voices_in_a_cluster", at_least=3, source="calibrated", why="the effective number: a cluster of one "
                  "voice holds a rule of that voice; synthetic voices give 5 of 24, LibriSpeech 75 of 172"),
        Criterion("clusters_at_one_loudness", at_least=3, source="calibrated", why="the effective number: where "
                  "clusters are loudness it is 1 or 2; log-mel gives 22 to 26 of 64"),
        Criterion("heldout_distance", at_most=1.25, source="calibrated", why="clusters of single recordings are far "
                  "from others of the same voices; log-mel gives 1.03"),
    )
)  # fmt: skip

WITHOUT_HELD_OUT = Gate(criterion for criterion in GATE.criteria if criterion.metric != "heldout_distance")


def gate_for(config: Config) -> Gate:
    """Without held-out utterances nothing can be said of them."""
    return GATE if config.data.heldout > 0 else WITHOUT_HELD_OUT


def windows_of(lags: tuple[int, ...], rule: FrameRule) -> Windows:
    """Contexts as A2's table has them. ValueError if the lags do not end where the table's first frames do."""
    if max(lags) != rule.max_lag:
        raise ValueError(
            f"lags={list(lags)}: the largest must be A2's max_lag, {rule.max_lag}, or other frames would be eligible; "
            f"run A2 with max_lag={max(lags)}"
        )
    return Windows(rule.window, lags)


def schemes_of(config: Config, rule: FrameRule) -> ConditioningConfig:
    """The settings of `fit_conditioning`."""
    kmeans = KMeansConfig(restarts=config.restarts, iterations=config.iterations, seed=config.seed)
    return ConditioningConfig(
        windows_of(config.lags, rule), config.mean_clusters, config.components, config.score_clusters, kmeans
    )


def read_schemes(run: RunDir, lag: int) -> Conditioning:
    """The fitted schemes of one lag. ValueError if the file is missing or damaged."""
    path = run.path / FOLDER / f"lag_{lag}.npz"
    try:
        return load_conditioning(path)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read ({reason}): remove lag_{lag}.json beside it and fit again") from None


def read_checks(run: RunDir, lag: int) -> dict[str, Any] | None:
    """What was found of the schemes of one lag; None before they are done."""
    return run.read_json(f"{FOLDER}/lag_{lag}.json")


def fit_lag(
    run: RunDir,
    utterances: Utterances,
    known: Survey,
    moments: ContextMoments,
    lag: int,
    schemes: ConditioningConfig,
    min_cluster: int,
) -> None:
    """Fit the schemes of one lag, write them, and check what was written; the json is last and says that it is done."""
    fitted = fit_conditioning(utterances, known, moments, lag, schemes)
    fitted.save(run.path / FOLDER / f"lag_{lag}.npz")
    written = read_schemes(run, lag)
    total = float(np.trace(context_covariance(moments, lag)[1]))
    checks = check_schemes(utterances, written, min_cluster)
    run.write_json(
        f"{FOLDER}/lag_{lag}.json",
        {
            "lag": lag,
            "pca_explained": float(written.variance_P.sum()) / total if total > 0 else None,
            "variance_of_components": written.variance_P.tolist(),
            "settled": [bool(written.mean_vq.settled), bool(written.score_vq.settled)],
            "reload_errors": differing_labels(utterances, fitted, written),
            "schemes": [
                {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in c._asdict().items()}
                for c in checks
            ],
        },
    )


def worst_of_lags(found: Sequence[Mapping[str, Any]], scheme: int) -> dict[str, float]:
    """The worst number of each kind over the lags, of one scheme; NaN where one was not measured."""
    worst = {"excluded": max, "heldout_distance": max, "excluded_heldout": max, "dead": max}
    return {
        name: worst.get(name, min)(math.nan if (x := f["schemes"][scheme][name]) is None else x for f in found)
        for name in SchemeChecks._fields
        if name not in ("scheme", "lag", "possible", "speakers")
    }


def metrics_of(found: Sequence[Mapping[str, Any]], unlike_table: int, frames: int) -> dict[str, Estimate]:
    """Everything that was checked, of the worst lag; the gate's numbers are those of the scheme that fits best."""
    names = [row["scheme"] for row in found[0]["schemes"]]
    speakers = found[0]["schemes"][0]["speakers"]
    worst = [worst_of_lags(found, scheme) for scheme in range(len(names))]
    judged = min(worst[:WITH_CENTROIDS], key=lambda numbers: numbers["excluded"])
    explained = [math.nan if f["pca_explained"] is None else f["pca_explained"] for f in found]
    metrics = {
        "frames_unlike_table": exact(unlike_table, frames, "frames"),
        "reload_errors": exact(sum(f["reload_errors"] for f in found), len(found), "lags"),
        "excluded_share": exact(judged["excluded"], speakers, "speakers"),
        **{
            name: exact(judged[name], speakers, "speakers")
            for name in ("clusters_used", "voices_in_a_cluster", "clusters_at_one_loudness", "heldout_distance")
        },
        "pca_explained": exact(min(explained), speakers, "speakers"),
        "unsettled_fits": exact(sum(not s for f in found for s in f["settled"]), 2 * len(found), "fits"),
    }
    for name, numbers in zip(names, worst, strict=True):
        metrics |= {f"{kind}_of_{name}": exact(value, speakers, "speakers") for kind, value in numbers.items()}
    return metrics


def check(config: Config) -> None:
    """ValueError on a codec that nobody knows."""
    check_codec_kind(config.data.codec)


def run(context: Context) -> Mapping[str, Estimate]:
    """Fit the lags that are not done yet, and gather what was checked."""
    config: Config = context.config
    utterances, rule = eligible_utterances(context)
    schemes = schemes_of(config, rule)
    known = survey(utterances, schemes.windows)
    missing = [lag for lag in config.lags if read_checks(context.run, lag) is None]
    if missing:
        moments = accumulate_moments(utterances, known)
        for lag in missing:
            fit_lag(context.run, utterances, known, moments, lag, schemes, config.min_cluster)
            context.run.append_log({"kind": "lag", "lag": lag})
    found = [checks for lag in config.lags if (checks := read_checks(context.run, lag))]
    made_of = {name: context.inputs["A1"].read_json(OF)[name] for name in ("corpus_sha256", "codec")}
    asked = {"lags": list(config.lags), "schemes": list(schemes.schemes)}
    asked |= {"min_cluster": config.min_cluster, "seed": config.seed}
    context.run.write_json(SUMMARY, {**made_of, "latents_sha256": rule.latents_sha256, **asked, "found": found})
    metrics = metrics_of(found, miscounted(known.frames, rule.rows), known.contexts)
    if not known.frames.get(HELD_OUT):
        del metrics["heldout_distance"]
    return metrics


PHASE = Phase(
    code="A3",
    name="conditioning",
    question="Do the coarse keys sort contexts by sound, into clusters that are filled and that new recordings share?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    gate_for=gate_for,
    run=run,
    needs=("A0", "A1", "A2"),
    check=check,
    failure_means="A later PASS could be one of easy frames, single voices or loudness, and a later FAIL one of "
    "clusters that are none.",
)
