"""P0: are the corpus and the instruments sound enough to judge anything by?

Method: every property that later phases lean on is checked on fresh draws. The grammar: each wording parses back to its
scene, augmentations keep the meaning and counterfactuals change it, no scene of one split stands in another, held-out
combinations never occur in training, and there are more sentences than anyone can memorise. A user's own text instead:
its splits share no sentence and no group, what is held out is new, and there is enough of it. The statistics: their
closed forms on synthetic fields (Field 1987 for the 1/f law).

A negative result would mean that nothing measured on this corpus or with these statistics can be believed.

Cost: quick 15 seconds on one CPU core.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from inscape import stats
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase
from inscape.data.scenes import (
    AUGMENTATIONS,
    EDITS,
    Scene,
    augment,
    count_sentences,
    counterfactual,
    parse,
    render,
    sample,
    split_of,
)
from inscape.data.scenes.evaluation import evaluation_pack
from inscape.stats import fields
from inscape.studies.visual import text_checks
from inscape.studies.visual.losses import gaussian_blur
from inscape.studies.visual.sources import DataConfig, Source, TextSource, check_data, open_source

__all__ = ["GATE", "PHASE", "Config"]

TOKENIZER, PACK = "tokenizer.json", "evaluation_pack.json"
MOST = {"draws": 10_000_000, "fields": 100_000}  # that are held in memory at once: a few gigabytes


@dataclass(frozen=True)
class Config:
    """How much is checked."""

    draws: int = 10_000  # sentences, augmented pairs and counterfactuals, each
    fields: int = 500  # synthetic images for each slope
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            if not 100 <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: 100 or more, at most {most}")


PROOF = "computable meaning is what the whole study rests on: a single error is a broken instrument"

GATE = Gate(
    (
        Criterion("slope_bias", at_most=0.02, why="FFT radial binning returns a line for synthetic 1/f fields"),
        Criterion("tv_of_noise", at_least=1e-3, why="TV > 0 on random noise"),
        Criterion("tv_after_smoothing", at_most=0.99, why="TV falls after smoothing: the share that is left"),
        Criterion("distinct_sentences", at_least=1e7, source="calibrated", why="too many to memorise"),
        Criterion("parse_errors", at_most=0, source="calibrated", why=PROOF),
        Criterion("augmentation_errors", at_most=0, source="calibrated", why=PROOF),
        Criterion("counterfactual_errors", at_most=0, source="calibrated", why=PROOF),
        Criterion("split_leaks", at_most=0, source="calibrated", why="what was trained on cannot be held out"),
        Criterion("tokenizer_errors", at_most=0, source="calibrated", why="decode(encode(sentence)) is the sentence"),
        Criterion("sentences_per_second", at_least=50_000, source="calibrated", why="data must outrun training"),
    )
)


# Of a user's own text: what of the above does not ask about the grammar, and what a file can get wrong.
TEXT_GATE = Gate(
    (
        *(c for c in GATE.criteria if c.metric in ("slope_bias", "tv_of_noise", "tv_after_smoothing")),
        *text_checks.CRITERIA,
        *(c for c in GATE.criteria if c.metric in ("tokenizer_errors", "sentences_per_second")),
    )
)


def wordings(rng: np.random.Generator, count: int, split: str | None = None) -> Iterator[tuple[Scene, str]]:
    """Random scenes of one to three facts, each in a random wording."""
    for i in range(count):
        scene = sample(rng, facts=1 + i % 3, split=split)
        yield scene, render(scene, rng)


def parse_errors(draws: int, seed: int) -> int:
    """Sentences that do not parse back to the scene that they were rendered from."""
    return sum(parse(text) != scene for scene, text in wordings(np.random.default_rng(seed), draws))


class Checked(NamedTuple):
    """How many were wrong, of how many that could be checked."""

    errors: int
    checked: int


def augmentation_errors(draws: int, seed: int) -> Checked:
    """Augmented sentences that are no other sentence, or of another scene; a kind that was never met is an error."""
    rng = np.random.default_rng(seed)
    met: dict[str, int] = dict.fromkeys(AUGMENTATIONS, 0)
    errors = 0
    for i, (scene, text) in enumerate(wordings(rng, draws)):
        name = AUGMENTATIONS[i // 3 % len(AUGMENTATIONS)]  # i % 3 is the number of facts: every pair of them is met
        changed = augment(text, name, rng)
        if changed is not None:
            met[name] += 1
            errors += changed == text or parse(changed) != scene
    return Checked(errors + _never_met(met), sum(met.values()))


def counterfactual_errors(draws: int, seed: int) -> Checked:
    """Counterfactuals that are no other scene, or not worded as they are; a kind that was never met is an error."""
    rng = np.random.default_rng(seed)
    met: dict[str, int] = dict.fromkeys(EDITS, 0)
    errors = 0
    for i, (scene, _) in enumerate(wordings(rng, draws)):
        edit = EDITS[i // 3 % len(EDITS)]
        other = counterfactual(scene, edit, rng)
        if other is not None:
            met[edit] += 1
            errors += other == scene or parse(render(other, rng)) != other
    return Checked(errors + _never_met(met), sum(met.values()))


def _never_met(met: Mapping[str, int]) -> int:
    return sum(count == 0 for count in met.values())


def split_leaks(source: Source, config: Config, seed: int) -> int:
    """Training sentences of the grammar that belong to another split, or are held out word for word."""
    step = 256
    held_out = set(source.held_out(config.draws))
    leaks = 0
    for i in range(-(-config.draws // step)):
        texts = source.tokenizer.decode(source.batch_at(seed, i, 0, 1, step))
        leaks += sum(text in held_out for text in texts)
        leaks += sum(split_of(parse(text)) != "train" for text in texts)
    return leaks


def tokenizer_errors(source: Source, sentences: list[str]) -> int:
    """Sentences that do not come back from their tokens."""
    tokens_BT = source.tokenizer.encode(sentences, on_long="truncate")
    whole = [bool((row == 0).any() or row[-1] == 2) for row in tokens_BT]  # cut ones cannot come back
    back = source.tokenizer.decode(tokens_BT)
    return sum(kept and text != again for kept, text, again in zip(whole, sentences, back, strict=True))


def sentences_per_second(source: Source, seed: int) -> float:
    """Pre-tokenised training sentences a second on this core; the best of five, since other work only slows it."""
    size, rates = 4096, []
    for i in range(5):
        start = time.perf_counter()
        source.batch_at(seed, i, 0, 1, size)
        rates.append(size / (time.perf_counter() - start))
    return max(rates)


def instrument_checks(count: int, seed: int) -> dict[str, Estimate]:
    """The statistics on synthetic fields of which the answer is known."""
    generator = torch.Generator().manual_seed(seed)
    bias = [
        abs(float(stats.spectral_slope(fields.power_law(alpha, count, generator=generator)).mean()) - alpha)
        for alpha in (0.0, 1.0, 2.0, 3.0)
    ]
    noise = fields.white_noise(count, generator=generator)
    before = stats.total_variation(noise)
    after = stats.total_variation(gaussian_blur(noise[:, None], 0.8)[:, 0])
    return {
        "slope_bias": exact(max(bias), count, "fields"),
        "tv_of_noise": exact(float(before.min()), count, "fields"),
        "tv_after_smoothing": exact(float((after / before).max()), count, "fields"),
    }


def grammar_checks(context: Context, source: Source) -> dict[str, Estimate]:
    """Wordings, edits and splits of the grammar; keeps the evaluation pack."""
    config: Config = context.config
    pack = evaluation_pack()
    context.run.write_json(
        PACK, {"version": pack.version, "montage": pack.montage, "items": [i._asdict() for i in pack.items]}
    )
    draws, seed = config.draws, context.seed
    checks = {
        "parse_errors": Checked(parse_errors(draws, seed), draws),
        "augmentation_errors": augmentation_errors(draws, seed + 1),
        "counterfactual_errors": counterfactual_errors(draws, seed + 2),
        "split_leaks": Checked(split_leaks(source, config, seed), draws),
    }
    return {
        **{name: exact(check.errors, check.checked, "sentences") for name, check in checks.items()},
        "distinct_sentences": exact(count_sentences(), 1, "grammar"),
    }


def run(context: Context) -> Mapping[str, Estimate]:
    """Check the corpus and the instruments; keep the tokenizer, and of the grammar the evaluation pack."""
    config: Config = context.config
    source, seed = open_source(config.data), context.seed
    source.tokenizer.save(context.run.path / TOKENIZER)
    context.run.write_json("data.json", source.report())
    held_out = source.held_out(config.draws)
    broken = Checked(tokenizer_errors(source, held_out), len(held_out))
    of_corpus = (
        text_checks.text_checks(source, Path(config.data.text))
        if isinstance(source, TextSource)
        else grammar_checks(context, source)
    )
    return {
        **instrument_checks(config.fields, seed),
        **of_corpus,
        "tokenizer_errors": exact(broken.errors, broken.checked, "sentences"),
        "sentences_per_second": exact(sentences_per_second(source, seed), 5, "timings"),
    }


PHASE = Phase(
    code="P0",
    name="corpus and instruments",
    question="Are the corpus and the instruments sound enough to judge anything by?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    gate_for=lambda config: TEXT_GATE if config.data.text else GATE,
    run=run,
    several=True,
    check=lambda config: check_data(config.data),
    failure_means="Nothing measured on this corpus or with these statistics can be believed.",
)
