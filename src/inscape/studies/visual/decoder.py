"""P4: can the sentence be read off its picture, and from nothing else?

Method: a decoder learns to give the sentence back from V (read in patches) and z. The plan freezes the encoder. Its
recipe `plan` trains reader and decoder on a V that contrast alone made; `joint` goes on with those that P2 and P3
trained. With `freeze=false` the encoder moves as well, and everything that P3 asked of it is asked again.
Teacher forcing (Williams & Zipser 1989), the plan's gate, proves little: a decoder can live on the tokens it is given.
So the text is also generated freely: from V alone, with and without the grammar's automaton, from another sentence's V,
without z, and from V under noise.

A negative result would mean that V does not hold the sentence: what contrast needs of it is less than what it says.

Cost: see the presets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from inscape.core.config import from_yaml
from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.study import Context, Phase, Remedy
from inscape.data.scenes.automaton import scene_automaton
from inscape.data.scenes.pools import codec_set
from inscape.data.text import TextCorpus
from inscape.data.text_lines import first_cells
from inscape.data.tokenizer import normalise
from inscape.nn.constraint import TokenConstraint
from inscape.studies.visual.codec_training import Training, check_training, train_codec, with_fresh_parts
from inscape.studies.visual.coding import Reading, encodable, say
from inscape.studies.visual.decoder_drawing import draw_attention, draw_noise
from inscape.studies.visual.decoding_metrics import (
    attention_metrics,
    content_mask_of_text,
    free_running,
    noise_metrics,
    noise_name,
    swapped,
    teacher_forced,
    watch_attention,
)
from inscape.studies.visual.drawing import draw_latents
from inscape.studies.visual.jitter import Config as Before
from inscape.studies.visual.jitter import kept_criteria, measure_kept
from inscape.studies.visual.meaning import Measured, check_recipe, facts_of
from inscape.studies.visual.meaning_metrics import HELD_OUT, by_facts, worst
from inscape.studies.visual.model import CODEC_WEIGHTS, TrainedCodec, encode, load_codec, save_codec
from inscape.studies.visual.sources import DataConfig, TextSource, check_data, open_source
from inscape.studies.visual.summary import write_summary
from inscape.studies.visual.text_meaning import one_of_each_group, returned, same_words

__all__ = ["GATE", "PHASE", "Config"]


@dataclass(frozen=True)
class Config:
    """One training of the decoder on P3's encoder."""

    recipe: str = "joint"  # plan (decoder anew, nothing but the sentence to decode) | joint (go on)
    freeze: bool = True  # keep V and z as they are
    data: DataConfig = field(default_factory=DataConfig)
    training: Training = field(default_factory=Training)
    others: str = ""  # paths, separated by commas, of texts from elsewhere: what of them comes back is measured as well
    measured: Measured = field(default_factory=Measured)

    def __post_init__(self) -> None:
        if self.recipe not in ("plan", "joint"):
            raise ValueError(f"recipe={self.recipe!r} is not known; allowed: plan, joint")


SIGMAS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)  # of the noise curve, in standard deviations of V
DRAWN = 64  # sentences whose attention is measured

PLAN = (
    Criterion("content_accuracy", at_least=0.90, why="teacher forcing, held out"),
    Criterion("shuffle_raises_cross_entropy", at_least=0.30, why="shuffling V spatially must hurt"),
    Criterion("attention_entropy", at_most=0.8, why="localised, made precise: content words look at no more than "
              "K^0.8 of the K places"),
    Criterion("attention_specificity", at_least=0.2, why="localised, made precise: and not all words at the same ones"),
)  # fmt: skip

GATE = Gate(
    (
        *PLAN,
        Criterion("scene_exact", at_least=0.995, source="calibrated", why="free-running: a decoder can copy the tokens "
                  "that teacher forcing gives it"),
        Criterion("scene_exact_in_grammar", at_least=0.995, source="calibrated", why="the same under the automaton"),
        Criterion("sentence_exact", at_least=0.99, source="calibrated", why="the very sentence"),
        Criterion("scene_exact_without_z", at_least=0.995, source="calibrated", why="from V alone, z removed"),
        Criterion(noise_name(0.2), at_least=0.99, source="calibrated", why="not hidden in fine detail of V"),
        Criterion(noise_name(0.5), at_least=0.95, source="calibrated", why="graceful"),
        Criterion("scene_exact_swapped", at_most=0.01, role="control", source="calibrated", why="another sentence's V "
                  "must destroy it"),
    )
)  # fmt: skip

TEXT_GATE = Gate(
    (
        *PLAN,
        Criterion("sentence_exact", at_least=0.75, source="calibrated", why="free-running, from V alone"),
        Criterion("token_accuracy", at_least=0.92, source="calibrated", why="free-running, place by place"),
        Criterion("sentence_exact_swapped", at_most=0.01, role="control", source="calibrated", why="another sentence's "
                  "V must destroy it"),
    )
)  # fmt: skip

REMEDIES = (
    Remedy(
        ("content_accuracy", "scene_exact", "sentence_exact", "scene_exact_without_z"),
        {"freeze": False},
        "ours: frozen after contrast V may not hold the sentence, so let the encoder move",
    ),
    Remedy(
        ("scene_exact", "sentence_exact"),
        {"training.fit.steps": lambda steps: 2 * steps},
        "ours: train longer",
    ),
)


def gate_for(config: Config) -> Gate:
    """The gate for the corpus; where the encoder moves, P3's is part of it."""
    own = TEXT_GATE if config.data.text else GATE
    return own if config.freeze else Gate((*own.criteria, *kept_criteria(config.data)))


def measure_decoding(codec: TrainedCodec, measured: Measured, facts: tuple[int, ...]) -> dict[str, Estimate]:
    """Every measurement for each number of facts, and the worst of those that decide."""
    grammar = TokenConstraint(scene_automaton(codec.tokenizer), codec.tokenizer.vocab_size)
    found: dict[str, dict[int, Estimate]] = {}

    def note(name: str, n: int, estimate: Estimate) -> None:
        found.setdefault(name, {})[n] = estimate

    for n in facts:
        count = measured.of(n).sentences
        held = codec_set(count, facts=n, split=HELD_OUT)
        latent = encode(codec.to_latent, list(held.sentences))
        heard = free_running(codec, latent, *held, Reading())
        note("scene_exact", n, heard.scene)
        note("sentence_exact", n, heard.sentence)
        note("scene_exact_in_grammar", n, free_running(codec, latent, *held, Reading(constraint=grammar)).scene)
        note("scene_exact_without_z", n, free_running(codec, latent, *held, Reading(sees_z=False)).scene)
        note("scene_exact_swapped", n, free_running(codec, swapped(latent), *held, Reading()).scene)
        few = slice(count // 2)
        curve = noise_metrics(codec, latent[few], held.scenes[few], SIGMAS, Reading(sees_z=True))
        for sigma, estimate in zip(SIGMAS, curve, strict=True):
            note(noise_name(sigma), n, estimate)
        for name, estimate in teacher_forced(codec, latent[few], held.sentences[few], codec.model.reader.side).items():
            note(name, n, estimate)
        maps = attention_metrics(codec, watch_attention(codec, latent[few][:DRAWN], held.sentences[few][:DRAWN]))
        for name, estimate in maps._asdict().items():
            note(f"attention_{name}", n, estimate)
    metrics: dict[str, Estimate] = {}
    for name, estimates in found.items():
        largest = name in ("attention_entropy", "scene_exact_swapped") or "cross_entropy" in name[-20:]
        largest = largest and name != "shuffle_raises_cross_entropy"
        metrics |= by_facts(name, estimates)
        metrics[name] = worst(estimates, measured.decide, largest=largest)
    return metrics


def measure_text(codec: TrainedCodec, sentences: list[str]) -> dict[str, Estimate]:
    """The same of a text file, sentence for sentence."""
    latent = encode(codec.to_latent, sentences)
    watched = watch_attention(codec, latent[:DRAWN], sentences[:DRAWN])
    maps = attention_metrics(codec, watched, content_mask_of_text)
    return {
        **returned(codec, sentences),
        **teacher_forced(codec, latent, sentences, codec.model.reader.side, content_mask_of_text),
        **{f"attention_{name}": estimate for name, estimate in maps._asdict().items()},
        "sentence_exact_with_z": same_words(sentences, say(codec, latent, Reading())),  # as VisualCodec.decode reads
        "sentence_exact_swapped": same_words(sentences, say(codec, swapped(latent), Reading())),
    }


def other_texts(others: str) -> list[Path]:
    """The paths in `others`."""
    return [Path(name.strip()) for name in others.split(",") if name.strip()]


def text_name(path: Path) -> str:
    """What metrics call a text: its file name without endings, in letters, digits and underscores."""
    return "other_" + re.sub(r"\W", "_", re.sub(r"\.(gz|xz)$", "", path.name).rpartition(".")[0] or path.name)


def fitting(codec: TrainedCodec, path: Path, count: int, corpus: TextCorpus | None = None) -> list[str]:
    """The first `count` different lines of a text that are not too long, and not in the corpus of the training.

    Of a .tsv the first sentence of each line. ValueError if there is none, or if the file is another kind of table.
    """
    longest = codec.model.encoder.config.max_length
    seen: set[str] = set()

    def is_new(line: str) -> bool:
        known = line in seen or (corpus is not None and corpus.holds(line))
        seen.add(line)
        return not known

    lines = map(normalise, first_cells(path))
    kept = list(islice((line for line in lines if encodable(codec, line) and is_new(line)), count))
    if not kept:
        raise ValueError(
            f"{path} has no line of up to {longest} tokens that the codec was not trained on; give one sentence a line"
        )
    return kept


def check(config: Config) -> None:
    """ValueError on a text that is not there, or is no text of sentences."""
    if config.freeze:
        check_data(config.data)
    else:
        check_training(config.data, config.training, config.recipe)
    named: dict[str, Path] = {}
    for path in other_texts(config.others):
        if not path.is_file():
            raise ValueError(f"others: {path} does not exist; give text files, separated by commas")
        next(first_cells(path), None)  # it looks at the first lines
        if (twin := named.setdefault(text_name(path), path)) is not path:
            raise ValueError(
                f"others: the figures of {twin} and {path} would both be called {text_name(path)}; rename one of them"
            )


def run(context: Context) -> Mapping[str, Estimate]:
    """Train the decoder, then measure the averaged weights."""
    config: Config = context.config
    source = open_source(config.data)
    before = context.inputs["P3"]
    check_recipe(config.recipe, from_yaml(Before, before.path / RunDir.CONFIG).recipe, "P3", before)
    codec = load_codec(before.path)
    # Read before the training: a text that does not fit must not cost an hour.
    corpus = source.corpus if isinstance(source, TextSource) else None
    others = {
        text_name(path): fitting(codec, path, config.measured.sentences, corpus) for path in other_texts(config.others)
    }
    training = config.training
    # The spatial readout reads what the reader made of V: to keep z as P2 and P3 passed it, the reader must stay too.
    kept = ("encoder", "readout") if codec.model.config.readout == "pooled" else ("encoder", "readout", "reader")
    if config.recipe == "plan":
        codec = with_fresh_parts(codec, kept, context.seed)
        training = replace(
            training,
            objective=replace(
                training.objective, image=0.0, contrast=0.0, invariance=0.0, target=0.0, from_z=0.0, noise=0.0
            ),
        )
    elif config.freeze:  # terms that only a moving encoder could serve
        training = replace(training, objective=replace(training.objective, image=0.0, contrast=0.0, invariance=0.0))
    codec, result = train_codec(context, codec, source, training, frozen=kept if config.freeze else ())
    save_codec(codec, context.run.path / CODEC_WEIGHTS)
    if config.data.text:
        metrics = measure_text(codec, one_of_each_group(source, config.measured.sentences))
    else:
        metrics = measure_decoding(codec, config.measured, facts_of(config.data))
        draw_noise(context.run, metrics, facts_of(config.data), SIGMAS)
    if not config.freeze:
        metrics |= measure_kept(codec, source, config.data, config.measured, context.seed)
    for name, sentences in others.items():
        metrics |= returned(codec, sentences, f"{name}_")
    montage = encode(codec.to_latent, list(source.montage))
    draw_latents(
        context.run, montage, source.montage, encode(codec.to_latent, source.held_out(256)), result.evaluations
    )
    draw_attention(context.run, codec, source.montage[0])
    write_summary(context.run, result, source, metrics)
    return metrics


PHASE = Phase(
    code="P4",
    name="decoder",
    question="Can the sentence be read off its picture, freely and from nothing else?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    gate_for=gate_for,
    run=run,
    several=True,
    needs=("P3",),
    seeds=(0, 1, 2),
    corpus_seeds=(0,),
    remedies=REMEDIES,
    check=check,
    failure_means="V does not hold the sentence: what contrast needs of it is less than what the sentence says.",
)
