"""Is the model itself until it hears, and is everything that should learn free to?

Method: the sounds are read, broken files set aside, and the splits searched for leaks; a frozen language model is
opened (or, for the short presets, a small one is trained on captions alone). Then each way of letting a frozen model
hear is put into it: prefix tokens, gated cross-attention (Alayrac et al. 2022), zero-init attention (Zhang et al.
2023), and low-rank cross-attention with a residual gate. At the start, and with the gate shut whatever was learned, its
logits must be those of the untouched model bit for bit; a clip without a single frame must change nothing; and no
parameter may be random and frozen, as freshly made key and output projections are when everything but the low-rank part
is frozen.

True counts of trained parameters of the plan's two configs, for the model they were written for, are put beside the
plan's claims.

A negative result would mean that the instrument is broken: what is measured later would be the damage done by putting a
listener in, or by weights that never learned.

Cost: quick about a minute on 2 CPU cores, most of it the small language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase
from inscape.nn.fusion import KINDS
from inscape.nn.parameter_audit import audit, gradient_reach
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.audio_fusion.kept_encoder import figures_of
from inscape.studies.audio_fusion.language import OWN, LanguageConfig, check_language, open_language, train_own
from inscape.studies.audio_fusion.listener import (
    PHASE1,
    Listener,
    ListenerConfig,
    new_listener,
)
from inscape.studies.audio_fusion.measures import (
    gate_0_difference,
    half_gate_share,
    logit_difference,
    numbers,
    open_gates,
)
from inscape.studies.audio_fusion.plan_sizes import CLAIMED, plan_sizes
from inscape.studies.audio_fusion.possible import check_possible, listeners_of, surroundings_of
from inscape.studies.audio_fusion.retention import moved
from inscape.studies.audio_fusion.sounds import (
    LEAKS,
    SoundConfig,
    Sounds,
    check_sounds,
    open_encoder,
    open_sounds,
    prepare_sounds,
)
from inscape.studies.audio_fusion.training import CaptionBatch, caption_batch, caption_loss

__all__ = ["GATE", "PHASE", "Config", "check_all"]

MOVED = 0.1  # standard deviation of what is added to every trained weight, to see what the gate shuts off


@dataclass(frozen=True)
class Config:
    """Which sounds and which model; the listener whose fusion is put in, in each of its kinds."""

    data: SoundConfig = field(default_factory=SoundConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    listener: ListenerConfig = PHASE1


GATE = Gate(
    (
        Criterion("init_difference", at_most=0, source="calibrated", why="largest difference of a logit at the start, "
                  "over all kinds: an exact identity, or the model was changed before it learned"),
        Criterion("gate_0_difference", at_most=0, source="calibrated", why="the same with every gate at 0 and the "
                  "hooks in place, and with the listener off, after all weights were moved at random"),
        Criterion("half_gate_error", at_most=0.05, source="calibrated", why="gates half as far open must add half as "
                  "much: what stands behind a norm adds the same, and its gate means nothing"),
        Criterion("random_frozen", at_most=0, source="calibrated", why="parameters that are random and never learn"),
        Criterion("without_gradient", at_most=0, source="calibrated", why="trained parameters that the loss does not "
                  "reach"),
        Criterion("silent_difference", at_most=0, source="calibrated", why="a clip without frames adds nothing"),
        Criterion("open_difference", at_least=1e-6, role="control", source="calibrated", why="with the gate open and "
                  "weights moved the logits must change: else nothing was put in"),
        Criterion("leaks", at_most=0, role="control", source="calibrated", why="no held-out clip may be trained on"),
    )
)  # fmt: skip


def without_gradient(lm: LanguageModel, listener: Listener, sounds: Sounds, prompt: str) -> int:
    """How many trained parameters a caption's loss does not reach."""
    listener.zero_grad(set_to_none=True)
    caption_loss(lm, listener, _few(lm, sounds, prompt)).backward()
    missed = len(gradient_reach(listener))
    listener.zero_grad(set_to_none=True)
    return missed


def _few(lm: LanguageModel, sounds: Sounds, prompt: str) -> CaptionBatch:
    return caption_batch(lm, sounds, range(min(4, sounds.size)), prompt)


def measure_kind(lm: LanguageModel, config: ListenerConfig, sounds: Sounds, prompt: str, seed: int) -> dict[str, float]:
    """The figures of one kind of fusion."""
    listener = new_listener(config, sounds, lm, seed).eval()
    found = audit(listener, pretrained={"language_model": lm.model})
    start = logit_difference(lm, listener, sounds, prompt, heard=True).value
    moved(listener, MOVED, seed)
    open_gates(listener)  # of one that was moved below 0 nothing could be told
    return {
        "init_difference": start,
        "gate_0_difference": gate_0_difference(lm, listener, sounds, prompt).value,
        "half_gate_error": abs(half_gate_share(lm, listener, _few(lm, sounds, prompt)) - 0.5),
        "random_frozen": sum(each.kind == "random-frozen" for each in found.parameters),
        "without_gradient": without_gradient(lm, listener, sounds, prompt),
        "silent_difference": logit_difference(lm, listener, sounds, prompt, heard=False).value,
        "open_difference": logit_difference(lm, listener, sounds, prompt, heard=True).value,
        "trained_parameters": found.by_kind()["trained"],
    }


def measure_kinds(
    lm: LanguageModel, config: Config, sounds: Sounds, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The figures of every kind that this model can have, and why it cannot have the others.

    ValueError if the configured kind is among these.
    """
    kinds, impossible = {}, {}
    for kind in KINDS:
        try:
            kinds[kind] = measure_kind(lm, _of_kind(config.listener, kind), sounds, config.language.prompt, seed)
        except ValueError as error:
            if kind == config.listener.fusion.kind:
                raise
            impossible[kind] = str(error)
    return kinds, impossible


def worst(kinds: Mapping[str, Mapping[str, float]]) -> dict[str, Estimate]:
    """Over the kinds: the largest of each figure that should be 0, the smallest of what the open gate changes.

    Not measured where one of them is no number: Python's max(0.0, nan) is 0.0, and would be a pass.
    """
    names = [name for name in next(iter(kinds.values())) if name != "trained_parameters"]
    found = {
        name: exact(
            float((np.min if name == "open_difference" else np.max)([each[name] for each in kinds.values()])),
            len(kinds),
            "kinds",
        )
        for name in names
    }
    counts = {f"trained_{kind}": exact(each["trained_parameters"], 1, "kind") for kind, each in kinds.items()}
    return found | counts


def _of_kind(config: ListenerConfig, kind: str) -> ListenerConfig:
    return replace(config, fusion=replace(config.fusion, kind=kind))


def check_all(config: Any) -> None:
    """ValueError on what a phase's config names and is not there, or what cannot be trained."""
    check_language(config.data.model)
    check_sounds(config.data)
    check_possible(config, surroundings_of(config))
    check_rates(config)


def check_rates(config: Any) -> None:
    """ValueError on two learning rates of a listener where the optimizer knows one."""
    training = getattr(config, "training", None)
    for name, listener in listeners_of(config).items():
        if training and training.fit.optimizer == "muon" and listener.lr_projector != listener.lr_adapter:
            raise ValueError(
                f"{name}.lr_projector={listener.lr_projector:g} and {name}.lr_adapter={listener.lr_adapter:g} differ, "
                "and muon knows one learning rate; give both, or training.fit.optimizer=adamw"
            )


def read_sounds(context: Context, lm: LanguageModel | None) -> dict[str, Any]:
    """Open the encoder, see that the listener fits what is open, and keep the sounds as it hears them."""
    config: Config = context.config
    encoder = open_encoder(config.data, context.device)
    check_possible(config, surroundings_of(config).opened(lm, figures_of(encoder), config.data.seconds))
    return prepare_sounds(config.data, context.run, encoder, seed=context.seed)


def run(context: Context) -> Mapping[str, Estimate]:
    """Read the sounds, open or train the model, put every kind of fusion in, and count."""
    config: Config = context.config
    given = config.data.model != OWN and open_language(config.data.model, config.language, context.run, context.device)
    counts = read_sounds(context, given or None)
    train, held_out = (open_sounds(context.run, split) for split in ("train", "held_out"))
    if config.data.model == OWN:
        captions = [said for each in train.captions for said in each]
        train_own(config.language, captions, context.run, seed=context.seed, device=context.device)
    lm = given or open_language(OWN, config.language, context.run, context.device)
    kinds, impossible = measure_kinds(lm, config, held_out, context.seed)
    sizes = plan_sizes()
    told: dict[str, Any] = {kind: numbers(each) for kind, each in kinds.items()}
    context.run.write_json("kinds.json", told | {kind: {"not possible": why} for kind, why in impossible.items()})
    context.run.write_json("plan_sizes.json", {"counted": sizes, "claimed": CLAIMED})
    leaks: Any = context.run.read_json(LEAKS)
    return worst(kinds) | {
        "leaks": exact(float(leaks["leaks"]), held_out.size, "clips"),
        "set_aside": exact(counts["set_aside"], counts["heard"] + counts["set_aside"], "clips"),
        "cut_share": exact(counts["cut"] / counts["heard"], counts["heard"], "clips"),
        **{f"{name}_trained_millions": exact(each["total"] / 1e6, 1, "config") for name, each in sizes.items()},
    }


PHASE = Phase(
    code="identity",
    name="identity",
    question="Is the model itself until it hears, and is everything that should learn free to?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    check=check_all,
    failure_means="The instrument is broken: what is measured later would be damage, or weights that never learned.",
)
