"""What a listener's captions are worth, and whether they come from listening.

The same clips are written of under six conditions: their own sound; another clip's (shuffled); its own with every frame
masked; silence; no audio at all; and by someone who always says the one caption that fits the training clips best. A
caption model that does not listen is as good under all of them.

Legend: B batch, T frames, F features, N tokens.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from inscape.core.estimate import Estimate, exact, proportion
from inscape.core.rundir import RunDir
from inscape.data.sounds.world import attribute_f1, parse_caption
from inscape.metrics.caption_words import words
from inscape.metrics.captions import measure_captions, spider
from inscape.metrics.cider import DocumentFrequencies, cider_d
from inscape.metrics.kept_share import kept_share, mean_difference
from inscape.metrics.qa import mean_over_questions
from inscape.metrics.spice import SpiceFailed, installed_spice
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.audio_fusion.language import LanguageConfig
from inscape.studies.audio_fusion.listener import (
    Hearing,
    Listener,
    caption_ids,
    caption_states,
    hearing,
    log_probabilities,
    of_masked,
    of_sounds,
    side_by_side,
    write_captions,
)
from inscape.studies.audio_fusion.listening_gate import LISTENING
from inscape.studies.audio_fusion.sounds import Sounds, batch_of, others
from inscape.studies.audio_fusion.training import CaptionBatch, caption_loss

__all__ = [
    "UNIT",
    "Judged",
    "best_constant",
    "by_condition",
    "class_named",
    "clip_mean",
    "exact_share",
    "gate_0_difference",
    "gradient_norms",
    "half_gate_share",
    "keep_captions",
    "layer_figures",
    "logit_difference",
    "measure_listening",
    "measure_spider",
    "numbers",
    "open_gates",
    "prefers_right_clip",
    "say_where_too_few",
    "scores",
    "share",
]

UNIT = "clips"
CONSTANTS = 200  # training captions of which the best constant one is chosen
COMPARED = 16  # clips whose logits are compared
OPEN = 0.1  # how far a gate is opened at least where it is measured what comes through
PERCENT = 100.0  # CIDEr as the tables of papers give it


class Judged(NamedTuple):
    """Captions by condition, and CIDEr-D of each clip in percent under each."""

    captions: dict[str, list[str]]
    cider: dict[str, np.ndarray]


def scores(captions: Sequence[str], sounds: Sounds, frequencies: DocumentFrequencies) -> np.ndarray:
    """CIDEr-D of each caption, in percent."""
    return PERCENT * cider_d(captions, sounds.captions, frequencies=frequencies)


def by_condition(
    lm: LanguageModel, listener: Listener, sounds: Sounds, trained_on: Sounds, config: LanguageConfig, silence_TF
) -> Judged:
    """The clips under every condition."""
    count = sounds.size
    silent: Hearing = lambda first, last: _repeated(silence_TF, last - first)  # noqa: E731
    heard: dict[str, Hearing] = {
        "own": of_sounds(sounds),
        "shuffled": of_sounds(sounds, others(sounds, count // 2)),
        "masked": of_masked(sounds),
        "silence": silent,
        "no_audio": lambda first, last: None,
    }
    written = {
        name: write_captions(
            lm, listener, each, count, prompt=config.prompt, new_tokens=config.new_tokens, batch=config.batch
        )
        for name, each in heard.items()
    }
    frequencies = DocumentFrequencies.of(sounds.captions)
    written["constant"] = [best_constant(trained_on)] * count
    return Judged(written, {name: scores(said, sounds, frequencies) for name, said in written.items()})


def best_constant(trained_on: Sounds) -> str:
    """Of some training captions the one that, said of every training clip, scores highest."""
    references = trained_on.captions[:CONSTANTS]
    frequencies = DocumentFrequencies.of(references)
    tried = [said[0] for said in references]
    means = [float(cider_d([said] * len(references), references, frequencies=frequencies).mean()) for said in tried]
    return tried[int(np.argmax(means))]


def measure_listening(judged: Judged, sounds: Sounds) -> dict[str, Estimate]:
    """The metrics that the gate's criteria name, and those of papers' tables beside them."""
    own, none = judged.cider["own"], judged.cider["no_audio"]

    def difference(first: np.ndarray, second: np.ndarray) -> Estimate:
        return mean_difference(first.tolist(), second.tolist(), **sounds.drawn)

    metrics = dict(measure_captions(judged.captions["own"], sounds.captions, frequencies=None, **sounds.drawn))
    metrics["spider"] = measure_spider(judged.captions["own"], sounds)
    metrics["exact"] = exact_share(judged.captions["own"], sounds.captions, sounds)
    for name in sorted(judged.cider.keys() - {"own"}):
        metrics[f"{name}_cider"] = clip_mean(judged.cider[name], sounds)
    metrics |= {
        "three_times_no_audio": difference(own, 3 * none),
        "over_constant": difference(own, judged.cider["constant"]),
        "gain_over_no_audio": difference(own, none),
        "heard_through_mask": _differing(judged.captions["masked"], judged.captions["no_audio"]),
        "silence_over_constant": difference(judged.cider["silence"], judged.cider["constant"]),
        "gain_lost_less_four_fifths": difference(own - judged.cider["shuffled"], 0.8 * (own - none)),
        "gain_lost_when_shuffled": kept_share(
            (own - judged.cider["shuffled"]).tolist(), (own - none).tolist(), **sounds.drawn
        ),
    }
    if sounds.is_world:
        truths = [parse_caption(each[0]) for each in sounds.captions]
        for name in ("own", "shuffled"):
            found = [attribute_f1(said, truth) for said, truth in zip(judged.captions[name], truths, strict=True)]
            metrics["attribute_f1" if name == "own" else "shuffled_attribute_f1"] = clip_mean(found, sounds)
    if any(sounds.labels):
        metrics["class_named"] = class_named(judged.captions["own"], sounds)
        metrics["shuffled_class_named"] = class_named(judged.captions["shuffled"], sounds)
    return metrics


def _differing(captions: Sequence[str], others: Sequence[str]) -> Estimate:
    """How many clips have another caption."""
    return exact(sum(a != b for a, b in zip(captions, others, strict=True)), len(captions), UNIT)


def measure_spider(captions: Sequence[str], sounds: Sounds) -> Estimate:
    """SPIDEr in percent; not measured where SPICE is not installed or does not run, which is said."""
    try:
        return spider(captions, sounds.captions, frequencies=None, spice=installed_spice(), **sounds.drawn)
    except SpiceFailed as error:
        print(f"SPIDEr is not measured, SPICE failed: {error}", file=sys.stderr)
        return spider(captions, sounds.captions, frequencies=None, **sounds.drawn)


def clip_mean(values: Sequence[float] | np.ndarray, sounds: Sounds) -> Estimate:
    """Mean of a score of each clip; the interval resamples recordings where several clips were cut from one."""
    return mean_over_questions([float(each) for each in values], **sounds.drawn)


def share(right: Sequence[bool], sounds: Sounds) -> Estimate:
    """Share of clips of which something is right, with Wilson's interval.

    Of recordings it is a bootstrap over them, and no narrower than Wilson's of as many: where all clips are right a
    bootstrap would claim certainty.
    """
    if not sounds.sources:
        return proportion(sum(right), len(right), UNIT)
    found = clip_mean([float(each) for each in right], sounds)
    wilson = proportion(round(found.value * found.n), found.n, found.unit)
    low, high = np.clip([min(found.low, wilson.low), max(found.high, wilson.high)], 0, 1)
    return replace(found, low=float(low), high=float(high))


def say_where_too_few(run: RunDir, held_out: Sounds) -> None:
    """A line in the run's log where so few are held out that no degenerate caption at all would not be enough."""
    (bound,) = (each.bound for each in LISTENING if each.metric == "degenerate_share")
    found = share([False] * held_out.size, held_out)
    least = next(n for n in itertools.count(1) if proportion(0, n, found.unit).high <= bound)
    if found.n < least:
        text = (
            f"{found.n} {found.unit} are held out, and without a single degenerate caption among them degenerate_share "
            f"<= {bound:g} is not shown: the least are {least}; hold out more with data.held_out, and of a folder of "
            "classes data.held_out_folds"
        )
        run.append_log({"kind": "notice", "text": text})
        print(text, file=sys.stderr)


def exact_share(captions: Sequence[str], references: Sequence[Sequence[str]], sounds: Sounds) -> Estimate:
    """Share of captions whose words are those of one of their references; signs and spaces do not count."""
    pairs = zip(captions, references, strict=True)
    return share([words(said) in [words(reference) for reference in each] for said, each in pairs], sounds)


def class_named(captions: Sequence[str], sounds: Sounds) -> Estimate:
    """Share of captions that name the clip's class and no other."""
    labels = sounds.labels
    classes = sorted(set(labels))
    right = [
        [name for name in classes if f" {name.replace('_', ' ')} " in f" {' '.join(words(said))} "] == [label]
        for said, label in zip(captions, labels, strict=True)
    ]
    return share(right, sounds)


def prefers_right_clip(lm: LanguageModel, listener: Listener, sounds: Sounds, config: LanguageConfig) -> Estimate:
    """How often a clip's caption is more probable with its own sound than with a wrong one."""
    said = [each[0] for each in sounds.captions]
    own, wrong = (
        log_probabilities(lm, listener, heard, said, prompt=config.prompt, batch=config.batch)
        for heard in (of_sounds(sounds), of_sounds(sounds, others(sounds, 1)))
    )
    return share([a > b for a, b in zip(own, wrong, strict=True)], sounds)


def gate_0_difference(lm: LanguageModel, listener: Listener, sounds: Sounds, prompt: str) -> Estimate:
    """Largest difference of any logit from the frozen model's, with every gate at 0, and with the listener off."""
    with _gates_at_0(listener), torch.enable_grad():  # where nothing can be learned prefix reads no further
        closed = logit_difference(lm, listener, sounds, prompt, heard=True)
    strength = listener.fusion.strength
    try:
        listener.fusion.strength = 0.0
        off = logit_difference(lm, listener, sounds, prompt, heard=True)
    finally:
        listener.fusion.strength = strength
    return exact(float(np.max([closed.value, off.value])), closed.n, UNIT)  # what is no number stays none


def _gates(listener: Listener) -> list[torch.nn.Parameter]:
    found = [p for name, p in listener.fusion.named_parameters() if "gate" in name.rpartition(".")[2]]
    assert found, "a fusion without a gate"
    return found


@torch.no_grad()
def open_gates(listener: Listener) -> None:
    """Make every gate positive, at least `OPEN`: what a shut one lets through tells nothing of it."""
    for gate in _gates(listener):
        gate.copy_(gate.abs().clamp_min(OPEN))


@contextmanager
def _gates_at_0(listener: Listener) -> Iterator[None]:
    """Within, every gate parameter is 0, and the hooks are in place as ever: what they add is what is measured."""
    gates = _gates(listener)
    kept = [gate.detach().clone() for gate in gates]
    try:
        with torch.no_grad():
            for gate in gates:
                gate.zero_()
        yield
    finally:
        with torch.no_grad():
            for gate, value in zip(gates, kept, strict=True):
                gate.copy_(value)


@torch.no_grad()
def half_gate_share(lm: LanguageModel, listener: Listener, batch: CaptionBatch) -> float:
    """What the first layer is given with all gates half as far open, over what it is given with them as they are.

    A half, where a gate does what it says; 1 behind a norm, which undoes it; no number where nothing is added.
    """
    fusion, added = listener.fusion, []
    strength = fusion.strength
    try:
        for share in (0.5, 1.0):
            fusion.strength = share * strength
            with hearing(lm, listener, (batch.features_BTF, batch.heard_BT), measure=True) as attached:
                caption_states(lm, batch.ids_BN)
                measured: Mapping = attached.measurements()
            added.append(measured[min(measured)].added_rms)
    finally:
        fusion.strength = strength
    return added[0] / added[1] if added[1] else float("nan")


def logit_difference(lm: LanguageModel, listener: Listener, sounds: Sounds, prompt: str, *, heard: bool) -> Estimate:
    """Largest difference of any logit from the frozen model's, hearing clips, or clips without a frame."""
    rows = np.arange(min(COMPARED, sounds.size))
    asked, ids = caption_ids(lm, prompt, [sounds.captions[i][0] for i in rows])
    ids_BN = side_by_side(asked, ids)[0].to(lm.device)
    features_BTF, mask_BT = batch_of(sounds, rows)
    head = lm.model.get_output_embeddings()
    plain_BNV = head(caption_states(lm, ids_BN))
    with hearing(lm, listener, (features_BTF, mask_BT if heard else torch.zeros_like(mask_BT))):
        fused_BNV = head(caption_states(lm, ids_BN))
    return exact(float((plain_BNV - fused_BNV).detach().abs().max()), len(rows), UNIT)


def gradient_norms(lm: LanguageModel, listener: Listener, batch: CaptionBatch) -> dict[str, float]:
    """Norm of the caption loss's gradient: "projector_gradient_norm", "fusion_gradient_norm" and, of each layer that
    hears, "layer_8_gradient_norm". Where the loss does not reach, 0.

    Clip by clip: the batch may be of more clips than memory holds at once with what their gradients need.
    """
    parts = {"projector": listener.projector, "fusion": listener.fusion}
    parts |= {f"layer_{number}": block for number, block in listener.fusion.blocks.items()}
    weights = {id(p): p for part in parts.values() for p in part.parameters()}
    frozen = [p for p in weights.values() if not p.requires_grad]  # an average's: nothing teaches it
    with torch.enable_grad():
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            sums: dict[int, torch.Tensor] = {}
            for i in range(len(batch.ids_BN)):
                clip = CaptionBatch(*(part[i : i + 1] for part in batch))
                share = clip.counted_BN.sum() / batch.counted_BN.sum()  # of the tokens, of which the loss is the mean
                loss = share * caption_loss(lm, listener, clip)
                found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                for key, g in zip(weights, found, strict=True):
                    if g is not None:
                        sums[key] = sums[key] + g.float() if key in sums else g.float()
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
    squares = {key: float(g.square().sum()) for key, g in sums.items()}
    return {
        f"{name}_gradient_norm": math.sqrt(sum(squares.get(id(p), 0.0) for p in part.parameters()))
        for name, part in parts.items()
    }


def numbers(found: Mapping[str, float]) -> dict[str, float | None]:
    """For a JSON file, which has no word for what is no finite number: null."""
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


@torch.no_grad()
def layer_figures(lm: LanguageModel, listener: Listener, batch: CaptionBatch) -> dict[str, float]:
    """Hidden and added RMS, their ratio, gate and attention entropy of each layer, by "layer_8_ratio"."""
    with hearing(lm, listener, (batch.features_BTF, batch.heard_BT), measure=True) as attached:
        caption_states(lm, batch.ids_BN)
        measured: Mapping = attached.measurements()
    return {
        f"layer_{layer}_{name}": float(value)
        for layer, each in measured.items()
        for name, value in each._asdict().items()
        if value is not None
    }


def keep_captions(run: RunDir, judged: Judged, sounds: Sounds) -> None:
    """What was said of every clip under every condition, beside what should be."""
    rows = [
        {"references": list(sounds.captions[i]), "label": sounds.labels[i]}
        | {name: said[i] for name, said in judged.captions.items()}
        for i in range(sounds.size)
    ]
    run.write_json("captions.json", rows)


def _repeated(features_TF: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return features_TF.expand(count, -1, -1), torch.ones(count, len(features_TF), dtype=torch.bool)
