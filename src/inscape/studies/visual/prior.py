"""P6: does a diffusion prior over the project's own latents sharpen them, and can it draw sentences out of noise?

Method: a tiny U-Net learns latents of P5's codec, of training sentences, by predicting noise (Ho et al. 2020; min-SNR
weights, Hang et al. 2023) or by flow matching (Lipman et al. 2023). Then the codec is trained on with
L_prior = xi |V - denoised V|^2, without a gradient through the U-Net, beside all of P5's terms, round trip and copy
suppression among them; and once more from the same weights, on the same batches, without it, so that what more training
does is not the prior's merit. P5's metrics are measured before and after, of the same sentences. Samples are drawn by
DDIM (Song et al. 2021) or Euler steps and read by the decoder; white noise is read beside them. The prior stays that of
P5's latents: what the codec has moved since is measured, and samples are read by the codec that it has become.

A negative result would mean that latents hold nothing in common that a denoiser could pull them to: what two wordings
of a scene differ in is as much a part of them as what they share.

Cost: see the presets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from inscape.codec import SHIPPED
from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion, Gate
from inscape.core.study import Context, Phase, Remedy
from inscape.data.replay_buffer import ReplayBuffer
from inscape.data.scenes import Scene
from inscape.data.scenes.pools import codec_set
from inscape.device import pick_device, seed_everything
from inscape.nn.diffusion import prior_loss
from inscape.nn.latent_codec import LatentCodec
from inscape.nn.unet import UNet, UNetConfig
from inscape.optimization import FitConfig
from inscape.stopping import part_of
from inscape.studies.visual.codec_training import Terms, Training, check_training, train_codec
from inscape.studies.visual.coding import embed
from inscape.studies.visual.drawing import draw_latents
from inscape.studies.visual.jitter import kept_criteria, measure_kept
from inscape.studies.visual.latent_prior import PRIOR_WEIGHTS, LatentPrior, Noise, denoised, sampled, save_prior
from inscape.studies.visual.meaning import Measured, facts_of
from inscape.studies.visual.meaning_metrics import HELD_OUT, by_facts, drop, encode_pairs, scene_pairs, worst
from inscape.studies.visual.model import CODEC_WEIGHTS, TrainedCodec, encode, fingerprint, load_codec, save_codec
from inscape.studies.visual.objective import TrainingTuples, encode_batch
from inscape.studies.visual.paraphrasing import meaning_of
from inscape.studies.visual.prior_drawing import draw_samples
from inscape.studies.visual.prior_metrics import (
    Samples,
    changes,
    examples,
    look,
    measure_denoise,
    measure_samples,
    read_samples,
    retrieved,
    round_trips,
    trip_changes,
)
from inscape.studies.visual.roundtrip_terms import RoundTrip, round_trip_terms
from inscape.studies.visual.sources import DataConfig, Source, open_source
from inscape.studies.visual.summary import write_summary
from inscape.train import fit

__all__ = ["GATE", "PHASE", "Config"]

SHIPPED_WORD = "shipped"
LARGEST_DECIDES = ("edit_distance_fall", "stranger_distance_fall", "cosine_of_strangers", "rouge_l", "rouge_l_rise")


@dataclass(frozen=True)
class Pull:
    """L_prior: how strongly, and at which levels of noise, V is pulled to what the prior makes of it."""

    weight: float = 1.0  # xi
    low: float = 0.2  # least share of noise in a noised V, sigma / (alpha + sigma)
    high: float = 0.5  # largest; a level is drawn for each sentence, uniform between the two

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"pull.weight={self.weight} is out of range; allowed: 0 or more")
        if not 0 < self.low <= self.high < 1:
            raise ValueError(f"pull.low, high={self.low}, {self.high} are out of range; allowed: 0 < low <= high < 1")

    @property
    def middle(self) -> float:
        """The level at which one denoise is measured."""
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Learned:
    """What the U-Net is trained on, and how."""

    latents: int = 8192  # held in the replay buffer: of as many training sentences
    batch: int = 32  # latents a step
    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=20_000, lr=1e-3, warmup_steps=100))

    def __post_init__(self) -> None:
        for name in ("latents", "batch"):
            if not 1 <= getattr(self, name) <= 10**6:
                raise ValueError(f"learned.{name}={getattr(self, name)} is out of range; allowed: 1 to 1000000")


@dataclass(frozen=True)
class Drawn:
    """What is drawn from noise to be measured."""

    samples: int = 1000
    steps: int = 50  # from noise to a latent

    def __post_init__(self) -> None:
        if not 40 <= self.samples <= 10**5:
            raise ValueError(f"drawn.samples={self.samples} is out of range; allowed: 40 to 100000")
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"drawn.steps={self.steps} is out of range; allowed: 1 to 1000")


@dataclass(frozen=True)
class Config:
    """The prior, then the codec's training with it, from P5's weights."""

    codec: str = ""  # weights to begin with: of P5's run if empty; shipped: the package's; else a file or a folder
    data: DataConfig = field(default_factory=DataConfig)
    noise: Noise = field(default_factory=Noise)
    unet: UNetConfig = field(default_factory=UNetConfig)
    learned: Learned = field(default_factory=Learned)
    pull: Pull = field(default_factory=Pull)
    training: Training = field(default_factory=Training)
    round_trip: RoundTrip = field(default_factory=RoundTrip)  # of both trainings, and of what is measured, as in P5
    drawn: Drawn = field(default_factory=Drawn)
    measured: Measured = field(default_factory=Measured)


# Decided before anything was measured, but for the two bounds on coming back: the shipped decoder was known to make
# sentences of 0.92 of white noise, and their text to lie at cosine 0.21 of it, where real latents have 0.79 to 1.
GATE = Gate(
    (
        # The plan's: one denoise reduces the prior losses without hurting retrieval, and paraphrases come closer.
        Criterion("spectrum_left_by_denoise", at_most=0.99, why="(slope - 2)^2 falls: the share that is left"),
        Criterion("tv_left_by_denoise", at_most=0.99, why="total variation falls: the share that is left"),
        Criterion("recall_drop_of_denoised", at_most=0.02, why="without hurting retrieval: P3's 2 %"),
        Criterion("paraphrase_distance_fall", at_least=0.10, why="|g(V(x)) - g(V(para(x)))| against P5's codec"),
        # Ours.
        Criterion("paraphrase_distance_fall", at_least=0.20, source="calibrated", why="the plan's twice"),
        Criterion("paraphrase_distance_fall_by_prior", at_least=0.10, source="calibrated", why="against the same "
                  "training without the prior: at least half of the fall that is asked for must be the prior's"),
        Criterion("edit_distance_fall", at_most=0.05, source="calibrated", why="scenes one edit away do not come "
                  "closer as well: a duller z would bring everything together"),
        Criterion("stranger_distance_fall", at_most=0.05, source="calibrated", why="nor do other scenes: z has unit "
                  "norm, and could still shrink to a narrow cone"),
        Criterion("told_apart_drop", at_most=0.005, source="calibrated", why="counterfactual accuracy is unchanged, "
                  "all edits together"),
        Criterion("told_apart_drop_of_an_edit", at_most=0.02, source="calibrated", why="and of no edit by itself; a "
                  "few hundred scenes each cannot say it more sharply"),
        Criterion("recall_drop", at_most=0.005, source="calibrated", why="retrieval is unchanged"),
        Criterion("sentence_exact_drop", at_most=0.01, source="calibrated", why="free-run exactness is unchanged, by "
                  "what P5's gate of 0.99 lets pass"),
        Criterion("graph_f1_drop", at_most=0.02, source="calibrated", why="the plan's \"without harming P5 metrics\", "
                  "each before against after, of the same sentences: paraphrases state the scene as they did"),
        Criterion("rouge_l_rise", at_most=0.02, source="calibrated", why="nor are they nearer to copies"),
        Criterion("round_trip_cosine_drop", at_most=0.02, source="calibrated", why="nor do they come back less surely"),
        Criterion("samples_parse", at_least=0.95, source="calibrated", why="samples out of noise are sentences, read "
                  "freely; the decoder says sentences of anything, so this alone says little"),
        Criterion("samples_come_back", at_least=0.9, source="calibrated", why="their text, encoded, has the meaning "
                  "that was read off them, as surely as of real latents: cos(g(V), g(V(text))) over that of those"),
        Criterion("samples_distinct", at_least=0.9, source="calibrated", why="one good latent for all seeds would "
                  "pass the other two"),
        Criterion("samples_copied", at_most=0.05, source="calibrated", why="and so would the training latents, "
                  "recited; of unseen latents 0.01 lie as near to one"),
        Criterion("samples_new_to_the_prior", at_least=0.5, source="calibrated", why="recited with noise they are no "
                  "copies, and still say what was learned"),
        Criterion("noise_comes_back", at_most=0.5, role="control", source="calibrated", why="white noise of the same "
                  "mean and spread, read alike: if that came back, coming back would say nothing"),
        Criterion("strangers_come_back", at_most=0.5, role="control", source="calibrated", why="nor the text of "
                  "another real latent: a constant g lets everything come back"),
        # P3's, as in P5, whose training this goes on with.
        *kept_criteria(DataConfig()),
    )
)  # fmt: skip

HARMED = (
    "told_apart_drop",
    "told_apart_drop_of_an_edit",
    "recall_drop",
    "sentence_exact_drop",
    "graph_f1_drop",
    "rouge_l_rise",
    "round_trip_cosine_drop",
    "edit_distance_fall",
    "stranger_distance_fall",
    *(criterion.metric for criterion in kept_criteria(DataConfig()) if criterion.role == "claim"),
)
UNLEARNED = (
    "spectrum_left_by_denoise",
    "tv_left_by_denoise",
    "recall_drop_of_denoised",
    "paraphrase_distance_fall",
    "paraphrase_distance_fall_by_prior",
    "samples_parse",
    "samples_come_back",
    "samples_distinct",
)
REMEDIES = (
    Remedy(HARMED, {"pull.weight": lambda xi: xi / 2}, "if not: lower xi"),
    Remedy(
        UNLEARNED,
        {"learned.fit.steps": lambda steps: 2 * steps},
        "if not: longer training of the U-Net; its min-SNR weights are there from the start",
    ),
    Remedy(
        ("samples_copied", "samples_new_to_the_prior"),
        {"learned.latents": lambda latents: min(10**6, 2 * latents)},
        "ours: a prior that recites has seen too few latents; longer training would have it recite more",
    ),
)


def begun(config: Config, context: Context) -> TrainedCodec:
    """The codec that everything starts from."""
    return load_codec(_named(config) if config.codec else context.inputs["P5"].path)


def _named(config: Config) -> Path:
    return SHIPPED if config.codec == SHIPPED_WORD else Path(config.codec)


def check(config: Config) -> None:
    """ValueError on a corpus or a codec that is not there, or a codec that was trained with another tokenizer."""
    check_training(config.data, config.training)
    if config.codec and not config.data.text:
        ours, theirs = open_source(config.data).tokenizer, load_codec(_named(config)).tokenizer
        if ours.fingerprint != theirs.fingerprint:
            raise ValueError(f"codec={config.codec} was trained on another corpus; give one of the scene grammar")


def copy_of(codec: TrainedCodec) -> TrainedCodec:
    """A codec to train on, so that this one stays as it is."""
    return codec._replace(model=deepcopy(codec.model))


class Trained(NamedTuple):
    """The prior, with the latents that it learned and what their sentences say."""

    prior: LatentPrior
    latent_KCHW: Tensor
    scenes: list[Scene]


def learn_prior(context: Context, codec: TrainedCodec, source: Source) -> Trained:
    """Fill the buffer from the training split, then train the U-Net on it; in `prior/` of the run."""
    config: Config = context.config
    device = pick_device(context.device)
    sizes = codec.model.encoder.config
    learned, size = config.learned, (sizes.C, sizes.H, sizes.W)  # type: ignore[union-attr]
    buffer, texts = ReplayBuffer(learned.latents, size, seed=context.seed), []
    codec.model.to(device).eval()
    for step in range(-(-learned.latents // 64)):
        tokens_BT = torch.from_numpy(source.batch_at(context.seed, step, 0, 1, 64))[: learned.latents - 64 * step]
        texts += source.tokenizer.decode(tokens_BT.numpy())
        with torch.inference_mode():
            buffer.offer(codec.model.encode(tokens_BT.to(device)))
    process = config.noise.make()
    seed_everything(context.seed)
    net = UNet(replace(config.unet, channels=size[0]))
    held_KCHW = buffer.held()
    net.normaliser.measure(held_KCHW)
    with part_of(context.run, "prior") as part:
        result = fit(
            net,
            lambda i, rank, world: buffer.batch(i, learned.batch, rank, world),
            lambda net, latent_BCHW, step: {"denoise": process.loss(net, latent_BCHW, None)},  # type: ignore[arg-type]
            learned.fit,
            part,
            seed=context.seed,
            device=device,
        )
    assert isinstance(result.ema, UNet)
    scenes = [scene for scene in map(meaning_of, texts) if scene is not None]
    return Trained(LatentPrior(result.ema, config.noise), held_KCHW, scenes)


def terms_with(config: Config, prior: LatentPrior | None, vocab: int) -> Terms:
    """All of P5's terms; and L_prior of the sentences' latents, if a prior is given."""
    process, pull = config.noise.make(), config.pull

    def terms(model: LatentCodec, batch: TrainingTuples, step: int) -> dict[str, Tensor]:
        latent_NCHW = encode_batch(model, batch)
        given = (config.training.objective, config.round_trip, vocab)
        found = round_trip_terms(model, batch, step, *given, latent_NCHW=latent_NCHW)
        if prior is None:
            return found
        latent_BCHW = latent_NCHW[: len(batch.sentence_BT)]
        level_B = pull.low + (pull.high - pull.low) * torch.rand(len(latent_BCHW), device=latent_BCHW.device)
        return found | {"prior": pull.weight * prior_loss(process, prior.net, latent_BCHW, level_B, None)}

    return terms


def measure_codecs(
    config: Config, before: TrainedCodec, after: TrainedCodec, without: TrainedCodec, prior: LatentPrior, seed: int
) -> dict[str, Estimate]:
    """What changed, for each number of facts, and the worst of those that decide; retrieval by denoised V; P5's."""
    found_by: dict[str, dict[int, Estimate]] = {}
    for n in facts_of(config.data):
        sizes = config.measured.of(n)
        asked = codec_set(sizes.sentences, facts=n, seed=1, split=HELD_OUT)
        triples = scene_pairs(n, sizes.per_edit, seed=0)
        pairs = encode_pairs(before, triples)
        first = look(before, pairs, asked)
        cleaned_NCHW = denoised(prior, pairs.anchor_NCHW, config.pull.middle, seed)
        measures = {
            "recall_drop_of_denoised": drop(first.found_N, retrieved(embed(before, cleaned_NCHW), pairs), "scenes")
        }
        others = [look(codec, encode_pairs(codec, triples), asked) for codec in (after, without)]
        few = max(8, len(asked.sentences) // 2)
        trips = [round_trips(codec, asked, few, config.round_trip, seed) for codec in (before, after)]
        for name, estimate in (measures | changes(first, *others) | trip_changes(*trips)).items():
            found_by.setdefault(name, {})[n] = estimate
    metrics: dict[str, Estimate] = {}
    for name, estimates in found_by.items():
        largest = "drop" in name or name in LARGEST_DECIDES
        metrics |= by_facts(name, estimates) | {name: worst(estimates, config.measured.decide, largest=largest)}
    return metrics


def measure_drawn(
    context: Context, before: TrainedCodec, codec: TrainedCodec, source: Source, trained: Trained
) -> tuple[dict[str, Estimate], Samples]:
    """Samples of the prior, which has learned latents of `before`, read by the codec that was trained with it."""
    config: Config = context.config
    drawn, (_, C, H, W) = config.drawn, trained.latent_KCHW.shape
    normaliser, generator = trained.prior.net.normaliser, torch.Generator().manual_seed(context.seed)
    white = torch.randn((drawn.samples, C, H, W), generator=generator)
    mean_C11, std_C11 = (x.cpu()[:, None, None] for x in (normaliser.mean_C, normaliser.std_C))
    samples = read_samples(codec, sampled(trained.prior, drawn.samples, (C, H, W), drawn.steps, context.seed))
    noise = read_samples(codec, mean_C11 + std_C11 * white)
    held_out = source.held_out(drawn.samples)
    real, unseen = read_samples(codec, encode(codec.to_latent, held_out)), encode(before.to_latent, held_out)
    return measure_samples(samples, noise, real, unseen, trained.latent_KCHW, trained.scenes, context.seed), samples


def run(context: Context) -> Mapping[str, Estimate]:
    """Train the prior, then the codec with it and without it, then measure the averaged weights."""
    config: Config = context.config
    source = open_source(config.data)
    before = begun(config, context)
    vocab, trained = before.tokenizer.vocab_size, learn_prior(context, before, source)
    with part_of(context.run, "without_prior") as part:
        terms = terms_with(config, None, vocab)
        without, _ = train_codec(context, copy_of(before), source, config.training, terms=terms, run=part, looks=False)
    terms = terms_with(config, trained.prior, vocab)
    after, result = train_codec(context, copy_of(before), source, config.training, terms=terms)
    save_codec(after, context.run.path / CODEC_WEIGHTS)
    save_prior(trained.prior._replace(codec=fingerprint(after.model)), context.run.path / PRIOR_WEIGHTS)
    sentences = source.held_out(config.measured.held_out)
    latent_NCHW = encode(before.to_latent, sentences)
    metrics = measure_denoise(latent_NCHW, denoised(trained.prior, latent_NCHW, config.pull.middle, context.seed))
    metrics |= measure_codecs(config, before, after, without, trained.prior, context.seed)
    measured, samples = measure_drawn(context, before, after, source, trained)
    montage = encode(after.to_latent, list(source.montage))
    draw_latents(context.run, montage, source.montage, encode(after.to_latent, sentences[:256]), result.evaluations)
    draw_samples(context.run, samples, montage, source.montage)
    context.run.write_json("examples.json", examples(samples))
    metrics |= measured | measure_kept(after, source, config.data, config.measured, context.seed)
    write_summary(context.run, result, source, metrics)
    return metrics


PHASE = Phase(
    code="P6",
    name="latent prior",
    question="Does a diffusion prior over the project's own latents sharpen them, and can it draw sentences of noise?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=("P5",),
    seeds=(0, 1, 2),
    corpus_seeds=(0,),
    remedies=REMEDIES,
    check=check,
    skip=lambda config: (
        "it needs the scene grammar, whose parser says which samples are sentences" if config.data.text else ""
    ),
    supplied=lambda config: bool(config.codec),
    failure_means="Latents hold nothing in common that a denoiser could pull them to: what two wordings of a scene "
    "differ in is as much a part of them as what they share.",
)
