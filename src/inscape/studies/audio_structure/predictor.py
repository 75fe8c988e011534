"""T1: can a probabilistic predictor tell how a latent goes on, better than what its steps look like as a whole?

Method: a mixture-density network (Bishop 1994) reads a window of frames, normalised by training statistics, and gives
the next step x[t] - x[t-1] a mixture of diagonal Gaussians; one network for each horizon k, with which the window ends
k frames before the target. Against it stands one diagonal Gaussian over all training steps, on the speakers that
nothing was fitted on. That baseline is weak in two ways, and a predictor of nothing gains on it: steps are not
Gaussian, and one frame ahead the context holds x[t-1], one half of the step. So the network is trained once more on
the contexts of other places of the same recordings, where only the shape of the steps can be learned, and what any
place of a recording says of them, such as its level; and each network is tested once more with such contexts. What
counts is the gain over both, two frames ahead. What a codec's own memory tells is still in it: see `frames_behind`.
Means stand beside medians and trimmed means: in the first experiment of this kind a few frames at the floor of sigma
made a mean of two million nats.

A negative result would mean that the recent past says nothing of the next step that a single fixed distribution does
not say.

Cost: quick 15 seconds on two CPU cores, small some 10 minutes; full perhaps an hour on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase
from inscape.stopping import part_of
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
from inscape.studies.audio_structure.predicted_speech import (
    NEEDS,
    PredictedSpeech,
    alignment_errors,
    predicted_speech,
)
from inscape.studies.audio_structure.prediction import (
    ContextConfig,
    DiagConfig,
    PredictorConfig,
    TrainConfig,
    save_predictor,
    train_predictor,
)
from inscape.studies.audio_structure.prediction_measures import Measured, Predictor, frame_nll, measure_predictor
from inscape.studies.audio_structure.sources import SpeechConfig, check_codec_kind

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["GATE", "PHASE", "Config"]

STRANGERS = "strangers"  # the folder of the control's training


@dataclass(frozen=True)
class Config:
    """The mixture-density network and its training. The defaults are the plan's."""

    data: SpeechConfig = field(default_factory=SpeechConfig)  # A0's
    hidden: int = 1024  # width of the hidden layers
    layers: int = 2  # hidden layers
    components: int = 8  # Gaussians
    context: ContextConfig = field(default_factory=ContextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    diag: StatisticsConfig = field(default_factory=StatisticsConfig)

    def __post_init__(self) -> None:
        _ = self.predictor  # refuses what is out of range

    @property
    def predictor(self) -> PredictorConfig:
        """These settings as those of a predictor."""
        return PredictorConfig(
            head="mixture_density",
            hidden=self.hidden,
            layers=self.layers,
            components=self.components,
            context=self.context,
            train=self.train,
            diag=DiagConfig(max_train_samples=self.diag.max_train_samples),
        )


GATE = Gate(
    (
        Criterion("dnll_k1", at_most=0, why="NLL of the model less that of a diagonal Gaussian over train steps; "
                  "negative is better"),
        Criterion("dnll_median_k1", at_most=0, source="calibrated", why="a mean can be the work of a few frames, in "
                  "both directions"),
        Criterion("over_strangers_within_per_dim_k2", at_most=-0.02, source="calibrated", why="nats a dimension better "
                  "than the same network trained on contexts of other places of the same recordings: what is left of "
                  "the gain without the shape of the steps and the recording's level"),
        Criterion("over_swapped_within_median_per_dim_k2", at_most=-0.02, source="calibrated", why="nats a dimension "
                  "better with its own context than with that of another place of the same recording, in the median "
                  "frame. Frames that are nothing to each other give 0, whatever their shape, the recording's level "
                  "and what was learned: two frames ahead the context holds no part of the step"),
        Criterion("strangers_cosine", at_most=0.05, role="control", source="calibrated", why="who is given the "
                  "context of another place and still points the right way has seen the target"),
        Criterion("alignment_errors", at_most=0, role="control", source="calibrated", why="windows of a latent that "
                  "counts its frames name the frames they hold"),
    )
)  # fmt: skip


def fit_on_strangers(context: Context, speech: PredictedSpeech, config: PredictorConfig) -> Predictor:
    """The same network, trained on contexts of other places of the same recordings. The horizon does not matter there:
    the first is taken.
    """
    with part_of(context.run, STRANGERS) as part:
        model = train_predictor(
            config,
            windows_of(speech, config, config.context.horizons_k[0], "train"),
            part,
            seed=context.seed,
            device=context.device,
            strangers=True,
        )
    save_predictor(model, config, context.run.path / f"predictor_{STRANGERS}.safetensors")
    return model


def strange_nll(control: Predictor, windows: FrameWindows, samples: int, seed: int) -> Float[np.ndarray, " N"]:
    """NLL of each sampled step with the context of another place of its recording; NaN where there is none."""
    numbers = windows.sample(samples, seed)
    there_N = windows.has_elsewhere(numbers)
    nll_N = np.full(len(numbers), np.nan)
    nll_N[there_N] = frame_nll(control, StepBatches.of(windows, control.window, numbers[there_N], strangers=seed))
    return nll_N


def heldout_gain(
    models: Mapping[int, Predictor], speech: PredictedSpeech, config: PredictorConfig, seed: int
) -> dict[str, Estimate]:
    """dNLL a dimension on new utterances of the train speakers: beside it that of the eval speakers is to be read."""
    if not len(speech.heldout):
        return {}
    samples = config.train.max_eval_samples
    return {
        f"heldout_dnll_per_dim_k{k}": measure_predictor(
            model, windows_of(speech, config, k, "heldout"), samples=samples, seed=seed
        ).metrics["dnll_per_dim"]
        for k, model in models.items()
    }


def draw(context: Context, found: Mapping[int, Measured], strangers: Mapping[str, Estimate], rate_hz: float) -> None:
    """The three figures with their captions."""
    folder = context.run.figures
    horizon_figures.draw_likelihood(found, rate_hz, folder, strangers=strangers["dnll"])
    horizon_figures.draw_direction(found, rate_hz, folder, strangers=strangers["direction_cosine"])
    horizon_figures.draw_tails(found, folder)
    captions = {name: text for name, text in horizon_figures.CAPTIONS.items() if (folder / name).is_file()}
    context.run.write_json(f"{folder.name}/captions.json", captions)


def run(context: Context) -> Mapping[str, Estimate]:
    """Train a network for each horizon and one on strange contexts, then measure them on the eval speakers."""
    config: PredictorConfig = context.config.predictor
    speech, seed, horizons = predicted_speech(context), context.seed, config.context.horizons_k
    models = fit_horizons(context, speech, config)
    control = fit_on_strangers(context, speech, config)
    windows, samples = windows_of(speech, config, horizons[0], "eval"), config.train.max_eval_samples
    found = measure_horizons(models, speech, config, seed, strangers_N=strange_nll(control, windows, samples, seed))
    strangers = measure_predictor(control, windows, samples=samples, seed=seed, strangers=seed).metrics
    write_horizons(context.run, found, speech.store.rate_hz)
    draw(context, found, strangers, speech.store.rate_hz)
    return {
        **by_horizon(found),
        "strangers_dnll": strangers["dnll"],
        "strangers_dnll_per_dim": strangers["dnll_per_dim"],
        "strangers_cosine": strangers["direction_cosine"],
        "alignment_errors": exact(*alignment_errors(config.context.window, horizons), "numbers"),
        **heldout_gain(models, speech, config, seed),
        "dimension": exact(speech.store.dimension, 1, "codec"),
        "frames_per_second": exact(speech.store.rate_hz, 1, "codec"),
        **codec_memory(context),
    }


PHASE = Phase(
    code="T1",
    name="predictor",
    question="Can a probabilistic predictor tell how a latent goes on, in voices it has not heard?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=NEEDS,
    check=lambda config: check_codec_kind(config.data.codec),
    failure_means="The recent past says nothing of the next step that a single fixed distribution does not say.",
)
