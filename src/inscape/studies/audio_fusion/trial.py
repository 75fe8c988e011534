"""One listener from start to figures: trained, saved, and judged under every condition.

Legend: T frames, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from inscape.core.config import from_yaml
from inscape.core.estimate import Estimate, exact
from inscape.core.rundir import RunDir
from inscape.core.study import Context
from inscape.metrics.cider import DocumentFrequencies
from inscape.pretrained.audio_encoders import check_name
from inscape.pretrained.language_model import LanguageModel
from inscape.stopping import part_of
from inscape.studies.audio_fusion.identity import Config as IdentityConfig
from inscape.studies.audio_fusion.kept_data import DATA
from inscape.studies.audio_fusion.kept_encoder import KeptEncoder, kept_encoder
from inscape.studies.audio_fusion.language import OWN, LanguageConfig, open_language
from inscape.studies.audio_fusion.listener import Listener, ListenerConfig, of_sounds, save_listener, write_captions
from inscape.studies.audio_fusion.measures import (
    Judged,
    by_condition,
    gate_0_difference,
    gradient_norms,
    keep_captions,
    layer_figures,
    logit_difference,
    measure_listening,
    numbers,
    prefers_right_clip,
    scores,
)
from inscape.studies.audio_fusion.possible import check_possible, surroundings_of
from inscape.studies.audio_fusion.reranking import reranked_captions
from inscape.studies.audio_fusion.sounds import LEAKS, SPLITS, Sounds, features_of_silence, open_sounds
from inscape.studies.audio_fusion.training import Evaluate, Trained, TrainingConfig, caption_batch, train_listener

__all__ = [
    "LISTENER",
    "Bench",
    "bench_controls",
    "captions_by",
    "cider_by",
    "judge_trial",
    "loss_over_first",
    "open_bench",
    "train_trial",
    "weights_digest",
]

LISTENER = "listener.safetensors"  # in the run
TRIED = 64  # validation clips that evaluations write of
SAID, SHOWN = "said.json", 3  # beside a training: of the first of them what was said, by step


class Bench(NamedTuple):
    """What every trial needs: the frozen model and the sounds, as the first phase left them."""

    lm: LanguageModel
    language: LanguageConfig
    train: Sounds
    validation: Sounds
    held_out: Sounds
    first: RunDir  # the run of the first phase
    weights: str  # digest of the frozen model's weights, before anything is trained
    encoder: KeptEncoder  # by which the sounds were heard
    leaks: float  # held-out clips that training clips give away


def open_bench(context: Context, config: Any) -> Bench:
    """The frozen model and the sounds of the run's inputs. ValueError in one line if they are not whole or not its."""
    first = context.inputs["identity"]
    made: Any = from_yaml(IdentityConfig, first.path / RunDir.CONFIG)
    own = (config.language.own, config.language.prompt) == (made.language.own, made.language.prompt)
    if made.data != config.data or (config.data.model == OWN and not own):
        raise ValueError(
            f"{first.path} prepared other sounds, or trained its model behind another prompt, than this config says; "
            "run the phase identity with the same overrides"
        )
    encoder = kept_encoder(first)
    check_name(encoder.name, config.data.encoder)
    lm = open_language(config.data.model, config.language, first, context.device)
    check_possible(config, surroundings_of(config).opened(lm, encoder, config.data.seconds))
    train, validation, held_out = (open_sounds(first, split) for split in SPLITS)
    if {each.features_NTF.shape[2] for each in (train, validation, held_out)} != {encoder.dimension}:
        raise ValueError(f"{first.path} holds features that are not {encoder.name}'s: run the phase identity again")
    leaks: Any = first.read_json(LEAKS) or {}
    if "leaks" not in leaks:
        raise ValueError(f"{first.path} does not say whether its splits leak ({LEAKS}): run the phase identity again")
    found = float(leaks["leaks"])
    return Bench(lm, config.language, train, validation, held_out, first, weights_digest(lm), encoder, found)


def bench_controls(bench: Bench) -> dict[str, Estimate]:
    """After the trainings: whether the frozen model is the one that was opened, and the splits are apart."""
    return {
        "model_changed": exact(float(weights_digest(bench.lm) != bench.weights), 1, "model"),
        "leaks": exact(bench.leaks, bench.held_out.size, "clips"),
    }


def captions_by(
    bench: Bench, listener: Listener | None, sounds: Sounds, order: Sequence[int] | None = None
) -> list[str]:
    """What is written of each clip, greedily; `order`: whose sound it hears. Without a listener: no audio."""
    asked = bench.language
    sizes = {"prompt": asked.prompt, "new_tokens": asked.new_tokens, "batch": asked.batch}
    return write_captions(bench.lm, listener, of_sounds(sounds, order), sounds.size, **sizes)


def cider_by(bench: Bench, listener: Listener | None, order: Sequence[int] | None = None) -> np.ndarray:
    """CIDEr of what is written of each held-out clip, in percent; `order`: whose sound it hears."""
    held_out = bench.held_out
    return scores(captions_by(bench, listener, held_out, order), held_out, DocumentFrequencies.of(held_out.captions))


def train_trial(
    bench: Bench, config: ListenerConfig, training: TrainingConfig, run: RunDir, seed: int, part: str = "training"
) -> Trained:
    """Train in a folder of `run`; evaluations write captions of validation clips and look at every layer."""
    run.write_json(DATA, bench.first.read_json(DATA))
    with part_of(run, part) as folder:
        return train_listener(
            bench.lm,
            config,
            training,
            bench.train,
            folder,
            prompt=bench.language.prompt,
            seed=seed,
            evaluate=_evaluation(bench, folder) if training.fit.eval_every else None,
        )


def _evaluation(bench: Bench, folder: RunDir) -> Evaluate:
    """CIDEr of validation clips, and of every layer its figures and gradient norm; the first captions are kept."""
    few = bench.validation.first(TRIED)
    frequencies = DocumentFrequencies.of(bench.train.captions)
    watched = caption_batch(bench.lm, few, range(min(8, few.size)), bench.language.prompt)

    def evaluate(listener: Listener, step: int) -> dict[str, float]:
        said = captions_by(bench, listener, few)
        rows = [{"reference": few.captions[i][0], "said": said[i]} for i in range(min(SHOWN, few.size))]
        folder.write_json(SAID, (folder.read_json(SAID) or {}) | {str(step): rows})
        found = layer_figures(bench.lm, listener, watched) | gradient_norms(bench.lm, listener, watched)
        return {"cider": float(scores(said, few, frequencies).mean())} | found

    return evaluate


def judge_trial(
    bench: Bench, config: ListenerConfig, trained: Trained, run: RunDir, seed: int
) -> tuple[dict[str, Estimate], Judged]:
    """Save the listener and measure it on the held-out clips, with every control."""
    lm, listener, held_out, asked = bench.lm, trained.listener, bench.held_out, bench.language
    save_listener(listener, config, bench.encoder, run.path / LISTENER)
    judged = by_condition(lm, listener, held_out, bench.train, asked, features_of_silence(bench.first))
    norms, layers = gradient_norms(lm, trained.last, trained.batch), layer_figures(lm, listener, trained.batch)
    if asked.candidates > 1:
        best = reranked_captions(lm, listener, of_sounds(held_out), held_out.size, asked, seed)
        judged.captions["reranked"] = best
        judged.cider["reranked"] = scores(best, held_out, DocumentFrequencies.of(held_out.captions))
    keep_captions(run, judged, held_out)
    run.write_json("layers.json", numbers(layers | norms))
    return measure_listening(judged, held_out) | {
        **bench_controls(bench),
        "prefers_right_clip": prefers_right_clip(lm, listener, held_out, asked),
        "gate_0_difference": gate_0_difference(lm, listener, held_out, asked.prompt),
        "silent_difference": logit_difference(lm, listener, held_out, asked.prompt, heard=False),
        "smallest_gradient_norm": exact(float(np.min([*norms.values()])), 1, "training"),
        "loss_over_first": loss_over_first(trained.losses),
        **{name: exact(value, 1, "training") for name, value in layers.items() if name.endswith(("_ratio", "_gate"))},
        "steps": exact(trained.steps, 1, "training"),
    }, judged


def weights_digest(lm: LanguageModel) -> str:
    """A digest of every weight of the model, to the bit."""
    digest = hashlib.sha256()
    for name, weight in lm.model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def loss_over_first(losses: list[float]) -> Estimate:
    """The loss of the last tenth of the log lines over that of the first line."""
    last = losses[-max(1, len(losses) // 10) :]
    return exact(sum(last) / len(last) / losses[0], len(losses), "log lines")
