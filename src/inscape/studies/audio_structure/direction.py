"""T2: are direction and length of the next step told apart by the recent past, by a head that is as sure as it may be?

Method: the step is a direction times a length, delta = m d. The direction is von Mises-Fisher around what the
window of frames says, with a concentration that the window says as well; the length is LogNormal (Mardia & Jupp 2000).
Against the head stand a uniform direction and one LogNormal for all steps. The first experiment of this kind pointed
right (cosine 0.73 one frame ahead, at 512 dimensions) and was worse than that baseline all the same, for its
concentration never trained; with the right one, such a cosine is worth 195 nats. So besides direction and length it is
asked which share of what its cosine is worth the head gains. A direction alone proves little: one frame ahead, going
back to the mean points at 0.71 even in pure noise. Two frames ahead that gives nothing, as long as the frames of noise
are nothing to each other: a codec that remembers makes noise predictable, and `frames_behind` says how far it does.

A negative result would mean that a step's direction is as good as uniform to whoever knows the past, and a lookup of
directions has nothing to offer.

Cost: quick 10 seconds on two CPU cores, small some 5 minutes; full perhaps an hour on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from inscape.core.estimate import Estimate, bootstrap_interval, exact, jackknife_error
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase
from inscape.metrics.directional import cosines
from inscape.nn import vmf
from inscape.nn.direction_magnitude import DirectionMagnitude
from inscape.studies.audio_structure import horizon_figures
from inscape.studies.audio_structure.frame_windows import FrameWindows, StepBatches
from inscape.studies.audio_structure.horizons import (
    StatisticsConfig,
    by_horizon,
    fit_horizons,
    measure_horizons,
    windows_of,
    write_horizons,
)
from inscape.studies.audio_structure.latents import codec_memory
from inscape.studies.audio_structure.predicted_speech import NEEDS, alignment_errors, predicted_speech
from inscape.studies.audio_structure.prediction import ContextConfig, DiagConfig, PredictorConfig, TrainConfig
from inscape.studies.audio_structure.prediction_measures import Measured
from inscape.studies.audio_structure.sources import SpeechConfig, check_codec_kind

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["GATE", "PHASE", "Config"]

GROUPS = 10  # of frames, by how sure the head is
LEAST_WORTH = 1e-3  # nats: a cosine that is worth less is none
RESAMPLES = 400


@dataclass(frozen=True)
class Config:
    """The head and its training. The defaults are the plan's."""

    data: SpeechConfig = field(default_factory=SpeechConfig)  # A0's
    hidden: int = 1024  # width of the hidden layers
    layers: int = 2  # hidden layers
    context: ContextConfig = field(default_factory=ContextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    diag: StatisticsConfig = field(default_factory=StatisticsConfig)

    def __post_init__(self) -> None:
        _ = self.predictor  # refuses what is out of range

    @property
    def predictor(self) -> PredictorConfig:
        """These settings as those of a predictor."""
        return PredictorConfig(
            head="direction_magnitude",
            hidden=self.hidden,
            layers=self.layers,
            context=self.context,
            train=self.train,
            diag=DiagConfig(max_train_samples=self.diag.max_train_samples),
        )


GATE = Gate(
    (
        Criterion("dnll_k1", at_most=0, why="NLL of the head less that of a uniform direction and one LogNormal; the "
                  "head that started this was at +2.2"),
        Criterion("dnll_median_k1", at_most=0, source="calibrated", why="a mean can be the work of a few frames, in "
                  "both directions"),
        Criterion("direction_efficiency_k1", at_least=0.5, source="calibrated", why="what the head gains on the "
                  "direction, as a share of what its cosine is worth at the best fixed concentration. A concentration "
                  "that never trained gains nothing; a share of the worth is lost to voices that are surer or less "
                  "sure than those fitted on"),
        Criterion("cosine_over_drift_k1", at_least=0.02, source="calibrated", why="one frame ahead a return to the "
                  "mean points at 0.71 even in pure noise; the head has to point better than the rule of drift"),
        Criterion("direction_cosine_k2", at_least=0.1, source="calibrated", why="frames that are nothing to each "
                  "other give 0 two frames ahead; a codec's own memory (frames_behind) counts as predictability"),
        Criterion("dnll_direction_k2", at_most=0, source="calibrated", why="and nothing to gain on the direction"),
        Criterion("log_magnitude_r2_k1", at_least=-1, source="calibrated", why="0 is one length for all, and the head "
                  "that started this had -3686; at -1 the lengths of unheard voices are missed by as much again as "
                  "they vary"),
        Criterion("not_finite", at_most=0, role="control", source="calibrated", why="numbers of the evaluation that "
                  "are NaN or infinite"),
        Criterion("alignment_errors", at_most=0, role="control", source="calibrated", why="windows of a latent that "
                  "counts its frames name the frames they hold"),
    )
)  # fmt: skip


def worth_of(cosine: float, dimension: int) -> float:
    """Nats that the best fixed concentration gains on a uniform direction where the mean cosine is `cosine`.

    kappa A_D(kappa) - L_D(kappa) at the kappa whose mean cosine it is: 194.7 at 0.73 and D = 512. Not below 0.
    """
    kappa = torch.tensor(vmf.concentration(min(max(cosine, 0.0), 1 - 1e-6), dimension), dtype=torch.float64)
    return max(0.0, float(kappa * vmf.mean_cosine(kappa, dimension) - vmf.log_partition(kappa, dimension)))


def efficiency(measured: Measured, dimension: int, seed: int) -> Estimate:
    """The gain on the direction as a share of what the mean cosine is worth; units are resampled for both at once.

    Not measured where the cosine is worth nothing.
    """
    gain_U, cosine_U = (np.array(measured.by_unit[name]) for name in ("dnll_direction", "direction_cosine"))
    metric = measured.metrics["dnll_direction"]
    worth = worth_of(float(cosine_U.mean()), dimension)
    if worth < LEAST_WORTH or not metric.measured:
        return Estimate(math.nan, math.nan, math.nan, 0, metric.unit)
    draw, value, all_U = np.random.default_rng(seed), float(-gain_U.mean() / worth), np.arange(len(gain_U))

    def share(rows: np.ndarray) -> float:
        return float(-gain_U[rows].mean() / max(worth_of(float(cosine_U[rows].mean()), dimension), LEAST_WORTH))

    drawn = [share(draw.integers(0, len(all_U), len(all_U))) for _ in range(RESAMPLES)]
    error = jackknife_error([share(np.delete(all_U, i)) for i in all_U])
    return bootstrap_interval(value, drawn, error, metric.n, metric.unit)


class Certainty(NamedTuple):
    """Frames in groups by how sure the head is, and what it says of all that is no number."""

    promised_B: Float[np.ndarray, " B"]
    found_B: Float[np.ndarray, " B"]
    not_finite: int
    numbers: int


@torch.no_grad()
def certainty(model: DirectionMagnitude, windows: FrameWindows, samples: int, seed: int) -> Certainty:
    """The mean cosine that the head promises and the one found, in ten groups from the least sure to the surest."""
    device = next(model.parameters()).device
    promised, found, broken, numbers = [], [], 0, 0
    for batch in StepBatches.of(windows, model.window, windows.sample(samples, seed)):
        given: Any = model(batch.context_NWD.to(device))
        step_ND = model.step(given)
        values = [*given, model.nll(given, batch.delta_ND.to(device)), step_ND]
        broken += sum(int((~value.isfinite()).sum()) for value in values)
        numbers += sum(value.numel() for value in values)
        kappa_N = given.log_kappa_N.double().exp() * given.direction_ND.double().norm(dim=-1)
        cosine_N, moves_N = cosines(step_ND.double().cpu().numpy(), batch.delta_ND.double().numpy())
        promised.append(vmf.mean_cosine(kappa_N, model.dimension).cpu().numpy()[moves_N])
        found.append(cosine_N[moves_N])
    promised_N, found_N = np.concatenate(promised), np.concatenate(found)
    groups = [part for part in np.array_split(np.argsort(promised_N, kind="stable"), GROUPS) if len(part)]
    promised_B, found_B = (np.array([x_N[part].mean() for part in groups]) for x_N in (promised_N, found_N))
    return Certainty(promised_B, found_B, broken, numbers)


def run(context: Context) -> Mapping[str, Estimate]:
    """Train a head for each horizon, then measure them on the eval speakers."""
    config: PredictorConfig = context.config.predictor
    speech, seed, horizons = predicted_speech(context), context.seed, config.context.horizons_k
    models, samples = fit_horizons(context, speech, config), config.train.max_eval_samples
    sure: dict[int, Certainty] = {}
    for k, model in models.items():
        assert isinstance(model, DirectionMagnitude)
        sure[k] = certainty(model, windows_of(speech, config, k, "eval"), samples, seed)
    broken = exact(sum(s.not_finite for s in sure.values()), sum(s.numbers for s in sure.values()), "numbers")
    if broken.value:  # nothing that is measured with such a head means anything
        return {"not_finite": broken}
    found = measure_horizons(models, speech, config, seed)
    write_horizons(context.run, found, speech.store.rate_hz)
    folder = context.run.figures
    horizon_figures.draw_likelihood(found, speech.store.rate_hz, folder)
    horizon_figures.draw_direction(found, speech.store.rate_hz, folder)
    horizon_figures.draw_certainty(*sure[horizons[0]][:2], folder)
    horizon_figures.draw_tails(found, folder)
    context.run.write_json(f"{folder.name}/captions.json", horizon_figures.CAPTIONS)
    dimension = speech.store.dimension
    return {
        **by_horizon(found),
        **{f"direction_efficiency_k{k}": efficiency(measured, dimension, seed) for k, measured in found.items()},
        **{
            f"certainty_error_k{k}": exact(float(np.abs(s.promised_B - s.found_B).mean()), len(s.found_B), "groups")
            for k, s in sure.items()
        },
        "not_finite": broken,
        "alignment_errors": exact(*alignment_errors(config.context.window, horizons), "numbers"),
        "dimension": exact(dimension, 1, "codec"),
        "frames_per_second": exact(speech.store.rate_hz, 1, "codec"),
        **codec_memory(context),
    }


PHASE = Phase(
    code="T2",
    name="direction",
    question="Are direction and length of the next step told by the recent past, in voices nobody has heard?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=NEEDS,
    check=lambda config: check_codec_kind(config.data.codec),
    failure_means="A step's direction is as good as uniform to whoever knows the past: a lookup of directions has "
    "nothing to offer.",
)
