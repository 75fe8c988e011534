"""How a listener is trained: captions behind a prompt, teacher-forced, through the frozen model's layers.

The plan's training: AdamW, weight decay 0.01, gradient norm at most 1, label smoothing 0.1, batches of 4 gathered 32
times. Where memory does not suffice the batch is halved and gathered twice as often, it is said, and training goes on
with the same clips a step.

Legend: B batch, T frames, F features, N tokens of prompt and caption, M predicted tokens of a batch, V vocabulary.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from inscape.core.rundir import RunDir
from inscape.data.epochs import dice, drawn, positions_of
from inscape.nn.parameter_audit import audit, check
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.audio_fusion.listener import (
    Listener,
    ListenerConfig,
    caption_ids,
    caption_states,
    hearing,
    new_listener,
    side_by_side,
)
from inscape.studies.audio_fusion.memory import is_no_memory, next_smaller, release_memory
from inscape.studies.audio_fusion.retention import RETENTIONS, Retention
from inscape.studies.audio_fusion.sounds import Sounds, batch_of
from inscape.train import FitConfig, FitResult, fit

__all__ = [
    "CaptionBatch",
    "Evaluate",
    "Trained",
    "TrainingConfig",
    "caption_batch",
    "caption_loss",
    "fit_within_memory",
    "train_listener",
]

AUDIT = "audit.json"  # beside each training: how many numbers of each part are trained, and how many frozen
Evaluate = Callable[[Listener, int], dict[str, float]]


@dataclass(frozen=True)
class TrainingConfig:
    """One training of a listener. The defaults are the plan's."""

    batch: int = 4  # clips that are in memory at once, over all processes
    epochs: int = 20  # passes over the training clips; 0: fit.steps counts
    label_smoothing: float = 0.1
    wordings: int = 0  # how many captions of a clip teach, the canonical one first; 0: all
    strangers: bool = False  # every caption is taught with another clip's sound: what can be learned without hearing
    retention: str = "none"  # none | soft | fisher | nullspace | full
    retention_weight: float = 1.0  # of soft's term; fisher's is a thousand times it
    fit: FitConfig = field(  # its lr is the listener's lr_projector
        default_factory=lambda: FitConfig(
            steps=1000, accumulate=32, weight_decay=0.01, clip_norm=1.0, checkpoint_every=100
        )
    )

    def __post_init__(self) -> None:
        allowed = {
            "batch": (1 <= self.batch <= 4096, "1 to 4096"),
            "epochs": (0 <= self.epochs <= 10_000, "0 to 10000"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 to below 1"),
            "wordings": (0 <= self.wordings <= 100, "0 to 100"),
            "retention": (self.retention in RETENTIONS, " | ".join(RETENTIONS)),
            "retention_weight": (0 <= self.retention_weight <= 1e6, "0 to 1000000"),
        }
        for name, (holds, words) in allowed.items():
            if not holds:
                raise ValueError(f"training.{name}={getattr(self, name)!r} is out of range; allowed: {words}")

    def fitting(self, clips: int, lr: float) -> FitConfig:
        """The settings of `fit` for so many clips: epochs as steps, and the projector's learning rate."""
        a_step = self.batch * self.fit.accumulate
        steps = max(1, math.ceil(self.epochs * clips / a_step)) if self.epochs else self.fit.steps
        return replace(self.fit, steps=steps, lr=lr, warmup_steps=min(self.fit.warmup_steps, steps))


class CaptionBatch(NamedTuple):
    """Clips with a caption each."""

    features_BTF: Tensor
    heard_BT: Tensor
    ids_BN: Tensor
    counted_BN: Tensor


class Trained(NamedTuple):
    """A finished training."""

    listener: Listener  # averaged weights
    last: Listener  # the weights of the last step, which have gradients
    losses: list[float]  # of each log line, in order
    steps: int
    batch: CaptionBatch  # the first batch, for measurements of gradients


def caption_batch(lm: LanguageModel, sounds: Sounds, rows: Sequence[int], prompt: str) -> CaptionBatch:
    """These clips with their canonical captions, on the model's device."""
    asked, ids = caption_ids(lm, prompt, [sounds.captions[i][0] for i in rows])
    parts = (*batch_of(sounds, list(rows)), *side_by_side(asked, ids))
    return CaptionBatch(*(each.to(lm.device) for each in parts))


def caption_loss(
    lm: LanguageModel, listener: Listener | None, batch: CaptionBatch, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of the captions' tokens, nats a token; the head runs at no other place."""
    with hearing(lm, listener, (batch.features_BTF, batch.heard_BT)):
        states_BND = caption_states(lm, batch.ids_BN)
    logits_MV = lm.model.get_output_embeddings()(states_BND[:, :-1][batch.counted_BN[:, 1:]]).float()
    return functional.cross_entropy(logits_MV, batch.ids_BN[batch.counted_BN], label_smoothing=label_smoothing)


def train_listener(
    lm: LanguageModel,
    config: ListenerConfig,
    training: TrainingConfig,
    sounds: Sounds,
    run: RunDir,
    *,
    prompt: str,
    seed: int,
    evaluate: Evaluate | None = None,
) -> Trained:
    """Train a listener on all clips of `sounds`, on the model's own device; a run with checkpoints is continued.

    ValueError before anything is computed where a parameter is random and frozen.
    """
    listener = new_listener(config, sounds, lm, seed)
    parameters = audit(listener, pretrained={"language_model": lm.model})
    check(parameters)
    run.write_json(AUDIT, parameters.by_part())
    retention = Retention.of(training.retention, training.retention_weight, lm, listener, sounds, seed)
    first: list[CaptionBatch] = []
    untrained = {name: tensor.clone() for name, tensor in listener.state_dict().items()}

    def attempt(batch: int, accumulate: int) -> FitResult:
        listener.load_state_dict(untrained)  # steps of an attempt that left no checkpoint count for nothing
        batch_at = _batches(lm, training, sounds, prompt, seed, batch)
        first[:] = [batch_at(0, 0, 1)]

        def loss_terms(model: Any, some: CaptionBatch, step: int) -> dict[str, Tensor]:
            model.fusion.set_warmup(step + 1)
            terms = {"caption": caption_loss(lm, model, some, training.label_smoothing)}
            return terms | retention.terms(model, some, step)

        fitting = replace(training.fitting(sounds.size, config.lr_projector), accumulate=accumulate)
        with retention.projecting(listener):
            return fit(
                listener,
                batch_at,
                loss_terms,
                fitting,
                run,
                seed=seed,
                device=lm.device,
                evaluate=_evaluation(evaluate) if evaluate else None,
            )

    result = fit_within_memory(attempt, training.batch, training.fit.accumulate)
    ema, last = result.ema, result.model
    assert isinstance(ema, Listener)
    assert isinstance(last, Listener)
    for each in (ema, last):
        each.fusion.set_warmup(result.steps)
    losses = [float(line["terms"]["caption"]) for line in run.read_log() if line.get("kind") == "train"]
    return Trained(ema, last, losses, result.steps, CaptionBatch(*(each.to(lm.device) for each in first[0])))


def fit_within_memory(attempt: Callable[[int, int], FitResult], batch: int, accumulate: int) -> FitResult:
    """attempt(batch, accumulate), with half the batch and twice the gathering each time memory runs out.

    An odd batch is divided by its smallest factor, so that a step has the same clips. ValueError in one line where
    memory does not suffice for one clip.
    """
    while True:
        try:
            return attempt(batch, accumulate)
        except RuntimeError as error:
            if not is_no_memory(error):
                raise
        smaller = next_smaller(batch)
        batch, accumulate = smaller, accumulate * (batch // smaller)
        release_memory()
        print(
            f"out of memory: {batch} clips at once from here on, gathered {accumulate} times a step; "
            f"as many clips a step as before",
            file=sys.stderr,
        )


def _evaluation(evaluate: Evaluate) -> Callable[[nn.Module, int], dict[str, float]]:
    def values(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, Listener)
        average.fusion.set_warmup(step)
        return evaluate(average, step)

    return values


def _batches(
    lm: LanguageModel, training: TrainingConfig, sounds: Sounds, prompt: str, seed: int, batch: int
) -> Callable[[int, int, int], CaptionBatch]:
    """Clips in an order of their own each epoch, one caption each; the same clips a step however they are gathered."""
    said = [each[: training.wordings or None] for each in sounds.captions]
    asked, flat = caption_ids(lm, prompt, [text for each in said for text in each])
    begins = np.cumsum([0, *(len(each) for each in said)])

    def batch_at(step: int, rank: int, world: int) -> CaptionBatch:
        places = positions_of(step, rank, world, batch)
        rows = drawn(seed, len(said), places)
        which = dice(seed, places) % np.array([len(said[i]) for i in rows], dtype=np.uint64)
        ids_BN, counted_BN = side_by_side(asked, [flat[begins[i] + int(w)] for i, w in zip(rows, which, strict=True)])
        heard = rows if not training.strangers else _strangers(rows, len(said))
        return CaptionBatch(*batch_of(sounds, heard), ids_BN, counted_BN)

    return batch_at


def _strangers(rows: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Another clip for each, always the same one of each clip's half-way neighbours in number."""
    return (np.asarray(rows) + max(1, count // 2)) % count
