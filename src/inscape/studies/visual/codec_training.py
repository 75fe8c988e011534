"""Training a codec on tuples: what P2 to P5 share. Which weights move, on what, by which terms, is theirs to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from inscape.core.rundir import RunDir
from inscape.core.study import Context
from inscape.data.scenes import parse
from inscape.device import pick_device, seed_everything
from inscape.metrics.scene_graph import scene_exact
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.studies.visual.coding import Reading, say
from inscape.studies.visual.drawing import draw_step
from inscape.studies.visual.health import trend_values
from inscape.studies.visual.losses import check_each_process
from inscape.studies.visual.model import TextToLatent, TrainedCodec, encode
from inscape.studies.visual.objective import Objective, TrainingTuples, keep_hardest, objective_terms
from inscape.studies.visual.sources import DataConfig, Mixture, Source, check_data
from inscape.train import FitConfig, FitResult, fit

__all__ = ["Terms", "Training", "check_training", "new_codec", "train_codec", "with_fresh_parts"]

WATCHED = 48  # validation sentences that an evaluation during training decodes

Terms = Callable[[LatentCodec, TrainingTuples, int], dict[str, Tensor]]


@dataclass(frozen=True)
class Training:
    """One training of a codec."""

    batch: int = 256  # tuples a step, over all processes; of the grammar's scenes, every second is an edited one
    mixture: Mixture = field(default_factory=Mixture)
    objective: Objective = field(default_factory=Objective)
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=50_000, warmup_steps=1000, eval_every=1000))

    def __post_init__(self) -> None:
        if self.batch < 4 or self.batch % 2:
            raise ValueError(f"batch={self.batch} is out of range; allowed: even numbers from 4 on")

    def families(self, source: Source) -> int:
        """How many scenes a step draws edits of; 0: the source has no edits, or one for each and nothing to choose."""
        chooses = source.has_edits and (self.mixture.edited > 1 or self.mixture.drawn > 1)
        return self.mixture.drawn * self.batch // 2 if chooses else 0


def check_training(data: DataConfig, training: Training, recipe: str = "joint") -> None:
    """ValueError on data that is not there, and on batches too small for what is asked of them.

    The image prior of recipe `plan` asks for no number of directions.
    """
    check_data(data)
    if training.objective.image and recipe != "plan":
        check_each_process(training.batch, training.objective.dimensions, "training.batch")


def new_codec(encoder: TextToLatent, config: LatentCodecConfig, seed: int) -> TrainedCodec:
    """A codec around a trained encoder, everything else fresh."""
    seed_everything(seed)
    sizes = encoder.encoder.config
    model = LatentCodec(sizes, config)  # type: ignore[arg-type]
    model.encoder.load_state_dict(encoder.encoder.state_dict())
    return TrainedCodec(model, encoder.tokenizer, reads_back=False)


def with_fresh_parts(codec: TrainedCodec, kept: Sequence[str], seed: int) -> TrainedCodec:
    """The codec with everything fresh but the parts that are `kept`."""
    fresh = new_codec(codec.to_latent, codec.model.config, seed)
    for part in kept:
        getattr(fresh.model, part).load_state_dict(getattr(codec.model, part).state_dict())
    return fresh


def train_codec(
    context: Context,
    codec: TrainedCodec,
    source: Source,
    training: Training,
    *,
    frozen: Sequence[str] = (),
    terms: Terms | None = None,
    run: RunDir | None = None,
    looks: bool = True,
    past_v: bool = False,
) -> tuple[TrainedCodec, FitResult]:
    """Train all of the codec but the `frozen` modules and parameters; evaluations look at validation sentences.

    terms: the loss terms, if they are not those of `training.objective`.
    run: where checkpoints and log go, if not into the phase's own run, where the course of V is drawn as well. looks:
    whether there are evaluations.
    past_v: z is of the states that V is painted from, where edited scenes are chosen by it.
    """
    if source.tokenizer.fingerprint != codec.tokenizer.fingerprint:
        raise ValueError(
            "the corpus is cut into other tokens than those that this codec was trained on, though its file is the "
            "same: another version of the package tokenizers, or of inscape, made the run that this one builds on; run "
            "the phases from P1 on again"
        )
    model, vocab = codec.model, codec.tokenizer.vocab_size
    for name, parameter in model.named_parameters():
        if any(name == part or name.startswith(f"{part}.") for part in frozen):
            parameter.requires_grad_(False)
    reads_back = codec.reads_back or any(parameter.requires_grad for parameter in model.decoder.parameters())
    rewords = codec.rewords or _learns_to_reword(model, source, training)
    watched = source.watched(WATCHED)

    def loss_terms(model: nn.Module, batch: TrainingTuples, step: int) -> dict[str, Tensor]:
        assert isinstance(model, LatentCodec)
        if training.families(source):
            batch = keep_hardest(model, batch, training.mixture.edited, training.mixture.drawn, past_v=past_v)
        return terms(model, batch, step) if terms else objective_terms(model, batch, step, training.objective, vocab)

    def evaluate(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, LatentCodec)
        trained = TrainedCodec(average, codec.tokenizer)
        if run is None:
            draw_step(context.run, trained.to_latent, source.montage, step, training.fit)
        return watch(trained, watched, training.objective.decodes)

    result = fit(
        model,
        lambda step, rank, world: _batch(source, training, context.seed, step, rank, world),
        loss_terms,
        training.fit,
        run or context.run,
        seed=context.seed,
        device=pick_device(context.device),
        evaluate=evaluate if looks else None,
    )
    for average in (result.model, result.ema):
        average.requires_grad_(True)
    assert isinstance(result.ema, LatentCodec)
    return TrainedCodec(result.ema, codec.tokenizer, rewords, reads_back), result


def _learns_to_reword(model: LatentCodec, source: Source, training: Training) -> bool:
    """Whether this training has its decoder say sentences in other words."""
    moves = any(parameter.requires_grad for parameter in model.decoder.parameters())
    return moves and source.has_groups and training.mixture.paraphrases > 0 and training.objective.target > 0


def _batch(source: Source, training: Training, seed: int, step: int, rank: int, world: int) -> TrainingTuples:
    size = training.families(source) * (1 + training.mixture.edited) or training.batch
    drawn = source.tuples_at(seed, step, rank, world, size, training.mixture)
    return TrainingTuples(*map(torch.from_numpy, drawn))


def watch(codec: TrainedCodec, sentences: list[str], decodes: bool) -> dict[str, float]:
    """The short list that is logged at every evaluation."""
    latent_NCHW = encode(codec.to_latent, sentences)
    values = trend_values(latent_NCHW)
    if decodes:
        said = say(codec, latent_NCHW, Reading(sees_z=False))
        values["sentence_exact"] = sum(a == b for a, b in zip(said, sentences, strict=True)) / len(said)
        values["scene_exact"] = sum(_same_scene(a, b) for a, b in zip(said, sentences, strict=True)) / len(said)
    return values


def _same_scene(text: str, sentence: str) -> bool:
    try:
        return scene_exact(text, parse(sentence))
    except ValueError:  # not of the grammar: only the words can be compared
        return text == sentence
