"""Predicting the next latent step from a window of frames: the settings of Tier 1, and the training of a predictor.

Two predictors share every line here: the mixture-density baseline and the direction-magnitude head (Exp 1). Context
and target follow the study's alignment rule: with horizon k the context's last frame is x[t - k], and the target is
the step x[t] - x[t - 1].

Legend: N samples, W window frames, D latent dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from inscape.checkpoint import weights_of
from inscape.core.config import with_changes
from inscape.core.rundir import RunDir, write_atomically
from inscape.device import pick_device, seed_everything
from inscape.nn.context_encoder import Steps
from inscape.nn.direction_magnitude import DirectionMagnitude
from inscape.nn.mixture_density import MixtureDensity
from inscape.studies.audio_structure.frame_windows import (
    FrameWindows,
    StepBatches,
    prefetched,
    steps_of,
)
from inscape.studies.audio_structure.prediction_measures import Predictor, gain_over_baseline
from inscape.train import FitConfig, fit

__all__ = [
    "ContextConfig",
    "DiagConfig",
    "PredictorConfig",
    "RolloutConfig",
    "TrainConfig",
    "fit_predictor",
    "load_config",
    "load_predictor",
    "mean_nll",
    "new_predictor",
    "save_predictor",
    "train_predictor",
    "trained_on",
]

HEADS = ("direction_magnitude", "mixture_density")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
ABOUT = "predictor"  # one entry of metadata: of several, safetensors writes them in an order that changes
WATCHED = 2048  # samples an evaluation during training looks at


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r} is out of range; allowed: {allowed}")


@dataclass(frozen=True)
class ContextConfig:
    """What a predictor sees, and how far ahead it looks."""

    window: int = 8  # frames
    horizons_k: tuple[int, ...] = (1, 2, 4, 8)  # frames from the context's last one to the target

    def __post_init__(self) -> None:
        _require(self.window >= 1, "context.window", self.window, "1 or more frames")
        allowed = "one or more different numbers of frames, each 1 or more"
        good = bool(self.horizons_k) and len(set(self.horizons_k)) == len(self.horizons_k) and min(self.horizons_k) >= 1
        _require(good, "context.horizons_k", self.horizons_k, allowed)


@dataclass(frozen=True)
class TrainConfig:
    """How a predictor is trained, and on how many samples it is measured."""

    max_steps: int = 20_000  # optimizer steps a horizon
    batch: int = 256  # samples a step, over all processes
    lr: float = 1e-3  # peak learning rate of AdamW
    weight_decay: float = 1e-4  # decoupled decay of matrices
    clip_norm: float = 1.0  # largest norm of the gradient of the NLL a dimension; 0 = never clip
    ema_decay: float = 0.999  # decay of the average of weights, a step
    eval_every: int = 2000  # steps between evaluations; 0 = never
    checkpoint_every: int = 2000  # steps between checkpoints; 0 = only at the end and on interruption
    max_eval_samples: int = 50_000  # samples a measurement looks at
    num_workers: int = 0  # threads that read batches ahead
    compile: bool = False  # torch.compile the forward pass
    compile_mode: str = "default"  # torch.compile's mode
    amp: bool = False  # matrix products in amp_dtype
    amp_dtype: str = "bfloat16"  # bfloat16 is the only one: float16 would need a scaled loss

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch", "max_eval_samples"):
            _require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "1 or more")
        for name in ("weight_decay", "clip_norm", "eval_every", "checkpoint_every", "num_workers"):
            _require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        _require(self.lr > 0, "train.lr", self.lr, "above 0")
        _require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "at least 0 and below 1")
        modes = " | ".join(COMPILE_MODES)
        _require(self.compile_mode in COMPILE_MODES, "train.compile_mode", self.compile_mode, modes)
        _require(self.amp_dtype == "bfloat16", "train.amp_dtype", self.amp_dtype, "bfloat16; or set train.amp=false")

    def fit_config(self, steps: int, lr: float) -> FitConfig:
        """These settings for `fit`."""
        return FitConfig(
            steps=steps,
            lr=lr,
            weight_decay=self.weight_decay,
            warmup_steps=min(200, steps // 10),
            clip_norm=self.clip_norm,
            ema_decay=self.ema_decay,
            precision=self.amp_dtype if self.amp else "float32",
            log_every=min(50, steps),
            eval_every=self.eval_every,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=1,  # a fit leaves its last one; at the plan's size each is some 200 MB
        )


@dataclass(frozen=True)
class RolloutConfig:
    """Exp 1B: fine-tuning on the predictor's own rollouts."""

    enabled: bool = True
    steps: int = 16  # frames unrolled
    max_steps: int = 2000  # optimizer steps
    batch: int = 64  # segments a step, over all processes
    lr: float = 1e-4  # peak learning rate
    teacher_weight: float = 0.1  # of the NLL under the true context
    p_true: float = 0.2  # share of frames that scheduled sampling takes from the truth, at first
    p_true_steps: int = 2000  # optimizer steps over which that share falls to 0

    def __post_init__(self) -> None:
        for name in ("steps", "max_steps", "batch", "p_true_steps"):
            _require(getattr(self, name) >= 1, f"rollout.{name}", getattr(self, name), "1 or more")
        _require(self.lr > 0, "rollout.lr", self.lr, "above 0")
        _require(self.teacher_weight >= 0, "rollout.teacher_weight", self.teacher_weight, "0 or more")
        _require(0 <= self.p_true <= 1, "rollout.p_true", self.p_true, "0 to 1")


@dataclass(frozen=True)
class DiagConfig:
    """Training statistics, and Exp 2: what happens after the truth is written into a rollout."""

    max_train_samples: int = 50_000  # samples that whitening and baselines are measured on
    n_eval_utterances: int = 16
    segments_per_utt: int = 8
    period: int = 4  # B_periodic: the truth is written after every so many steps

    def __post_init__(self) -> None:
        for name in ("n_eval_utterances", "segments_per_utt", "period"):
            _require(getattr(self, name) >= 1, f"diag.{name}", getattr(self, name), "1 or more")
        _require(self.max_train_samples >= 2, "diag.max_train_samples", self.max_train_samples, "2 or more")


@dataclass(frozen=True)
class PredictorConfig:
    """Tier 1. Sizes are the source's."""

    head: str = "direction_magnitude"  # direction_magnitude | mixture_density
    hidden: int = 1024  # width of the hidden layers
    layers: int = 2  # hidden layers
    components: int = 8  # Gaussians of the mixture_density head
    context: ContextConfig = field(default_factory=ContextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    diag: DiagConfig = field(default_factory=DiagConfig)

    def __post_init__(self) -> None:
        _require(self.head in HEADS, "head", self.head, " | ".join(HEADS))
        for name in ("hidden", "layers", "components"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


def new_predictor(
    head: str, window: int, dimension: int, *, hidden: int = 1024, layers: int = 2, components: int = 8
) -> Predictor:
    """An untrained predictor; ValueError for an unknown head."""
    _require(head in HEADS, "head", head, " | ".join(HEADS))
    if head == "mixture_density":
        return MixtureDensity(window, dimension, hidden, layers, components)
    return DirectionMagnitude(window, dimension, hidden, layers)


def mean_nll(model: Predictor, steps: Steps) -> Tensor:
    """Mean NLL of the steps that are scored, in nats a dimension; 0 if none is."""
    nll_N, scored_N = model.nll(model(steps.context_NWD), steps.delta_ND), model.scored(steps.delta_ND)
    return nll_N.sum() / scored_N.sum().clamp_min(1) / model.dimension


def train_predictor(
    config: PredictorConfig,
    train: FrameWindows,
    run: RunDir,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    watched: FrameWindows | None = None,
    strangers: bool = False,
) -> Predictor:
    """Measure training statistics, train, and return the averaged weights; a run with checkpoints is continued.

    train, watched: windows of one horizon, from `step_windows`; the latter is looked at by evaluations.
    strangers: every step is given with the context of another place of its utterance; what is learned then is the shape
    of the steps, and what any place of a recording says of them.
    """
    window, settings = config.context.window, config.train
    seed_everything(seed)
    sizes = {"hidden": config.hidden, "layers": config.layers, "components": config.components}
    model = new_predictor(config.head, window, train.corpus.dimension, **sizes)
    sampled = train.sample(config.diag.max_train_samples, seed)
    if strangers:
        sampled = np.intersect1d(sampled, train.with_elsewhere, assume_unique=True)
    model.measure(StepBatches.of(train, window, sampled, strangers=seed if strangers else None))
    batches = None if watched is None else StepBatches.of(watched, window, watched.sample(WATCHED, seed))

    def batch_at(step: int, rank: int, world: int) -> Steps:
        if strangers:
            return train.draw_strange(seed, step, rank, world, settings.batch, window)
        return steps_of(train.draw(seed, step, rank, world, settings.batch), window, train.span)

    return fit_predictor(
        model,
        batch_at,
        lambda model, steps, _: {"nll": mean_nll(model, steps)},
        settings,
        settings.fit_config(settings.max_steps, settings.lr),
        run,
        seed=seed,
        device=device,
        evaluate=None if batches is None else lambda average, _: gain_over_baseline(average, batches),
    )


def fit_predictor(
    model: Predictor,
    batch_at: Callable[[int, int, int], Any],
    loss_terms: Callable[[Any, Any, int], Mapping[str, Tensor]],
    settings: TrainConfig,
    fitting: FitConfig,
    run: RunDir,
    *,
    seed: int,
    device: torch.device | str,
    evaluate: Callable[[Any, int], Mapping[str, float]] | None = None,
) -> Predictor:
    """`fit` with the settings that it does not know: workers and the mode of compilation. Returns averaged weights."""
    if settings.compile:
        model.compile(mode=settings.compile_mode, dynamic=False)
    with prefetched(batch_at, settings.num_workers, fitting.steps) as batches:
        ema: Any = fit(
            model, batches, loss_terms, fitting, run, seed=seed, device=pick_device(str(device)), evaluate=evaluate
        ).ema
    return ema


def save_predictor(model: Predictor, config: PredictorConfig, path: Path, *, latents: str = "") -> None:
    """Write weights, statistics and config into one safetensors file; latents: sha256 of those it was trained on."""
    about = {"config": asdict(config), "dimension": model.dimension, "latents": latents}
    write_atomically(path, save(weights_of(model), {ABOUT: json.dumps(about)}))


def load_predictor(path: Path) -> Predictor:
    """The inverse; ValueError in one line if the file is missing, damaged or of something else."""
    return _loaded(path)[0]


def load_config(path: Path) -> PredictorConfig:
    """The config that `save_predictor` was given. ValueError as `load_predictor`."""
    return _loaded(path)[1]


def trained_on(path: Path) -> str:
    """The sha256 of latents that `save_predictor` was given; empty where none was. ValueError as `load_predictor`."""
    return _loaded(path)[2]


def _loaded(path: Path) -> tuple[Predictor, PredictorConfig, str]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        about = json.loads(metadata[ABOUT])
        config = with_changes(PredictorConfig(), about["config"])
        sizes = {"hidden": config.hidden, "layers": config.layers, "components": config.components}
        model = new_predictor(config.head, config.context.window, about["dimension"], **sizes)
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} holds no predictor ({reason}); give a file that a prediction run wrote") from None
    return model.eval(), config, str(about.get("latents", ""))
