"""P3: does the latent behave like a picture, so that a small shift, a mild blur or a small hole leaves its meaning?

Method: P2 goes on with jitter T on one of the two views and L_inv = |g(T(V1)) - g(V2)|^2, which the plan's recipe
begins with here and the joint one in P2. Measured: the cosine of g(V) with g(T(V)) against the shift in pixels, under
blur and under a hole (DeVries & Taylor 2017), and what each of them costs retrieval and edits.

A negative result would mean that meaning is hidden in single pixels: a code that looks like a picture, and is none.

Cost: see the presets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inscape.core.config import from_yaml
from inscape.core.estimate import Estimate, bootstrap_mean, proportion
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.study import Context, Phase, Remedy
from inscape.data.text_lines import is_grouped
from inscape.nn.jitter import blur, cutout, derangement, shift
from inscape.studies.visual import meaning_figures
from inscape.studies.visual.beginning import Beginning, begin_codec
from inscape.studies.visual.codec_training import Training, check_training, train_codec
from inscape.studies.visual.coding import embed
from inscape.studies.visual.drawing import draw_latents
from inscape.studies.visual.meaning import (
    PICTURE,
    Measured,
    check_recipe,
    facts_of,
    picture_metrics,
    plan_terms_of,
    plan_training,
)
from inscape.studies.visual.meaning import Config as Before
from inscape.studies.visual.meaning_drawing import as_rows, note_captions
from inscape.studies.visual.meaning_metrics import (
    EncodedPairs,
    EncodedPool,
    by_facts,
    drop,
    encode_pairs,
    encode_scene_pool,
    found,
    scene_pairs,
    told_apart_by_edit,
    worst,
)
from inscape.studies.visual.model import CODEC_WEIGHTS, TrainedCodec, encode, load_codec, save_codec
from inscape.studies.visual.sources import DataConfig, Source, open_source
from inscape.studies.visual.summary import write_summary
from inscape.studies.visual.text_meaning import text_pools

__all__ = ["GATE", "PHASE", "Config", "gate_for_corpus", "kept_criteria", "measure_kept"]


@dataclass(frozen=True)
class Config:
    """P2's training, continued under jitter."""

    recipe: str = "joint"  # plan | joint, as in P2, whose codec this goes on with
    data: DataConfig = field(default_factory=DataConfig)
    beginning: Beginning = field(default_factory=Beginning)  # the joint recipe only
    training: Training = field(default_factory=Training)
    measured: Measured = field(default_factory=Measured)

    def __post_init__(self) -> None:
        if self.recipe not in ("plan", "joint"):
            raise ValueError(f"recipe={self.recipe!r} is not known; allowed: plan, joint")


SHIFT = 2  # pixels: the plan's
SHIFTS = (0, 1, 2, 3, 4)  # of the curve
BLUR = 0.8  # sigma in pixels: the plan's warm-up blur, and the strongest of T
CUTOUT = 6  # pixels: side of the hole
TRANSFORMS = ("shift", "blur", "cutout")

GATE = Gate(
    (
        # The plan's two.
        Criterion("cosine_under_shift", at_least=0.9, why="g(V) and g(T(V)) at 2 px, the worst direction"),
        Criterion("recall_drop_under_shift", at_most=0.02, why="retrieval doesn't drop more than 2 %"),
        # Ours.
        Criterion("recall_at_1", at_least=0.99, source="calibrated", why="without jitter: a z that finds nothing has "
                  "nothing to lose"),
        *(
            Criterion(f"cosine_under_{name}", at_least=0.9, source="calibrated", why="each transform by itself: a mean "
                      "over all can hide one")
            for name in ("blur", "cutout")
        ),
        *(
            Criterion(f"recall_drop_under_{name}", at_most=0.02, source="calibrated", why="each transform by itself")
            for name in ("blur", "cutout")
        ),
        Criterion("told_apart", at_least=0.99, source="calibrated", why="counterfactual accuracy is not lost: the "
                  "lowest edit, without jitter"),
        *(
            Criterion(f"told_apart_under_{name}", at_least=0.97, source="calibrated", why="and survives jitter: all "
                      "edits together")
            for name in TRANSFORMS
        ),
        *PICTURE,
        Criterion("cosine_of_strangers", at_most=0.5, role="control", source="calibrated", why="a constant g has "
                  "cosine 1 under every jitter"),
    )
)  # fmt: skip

# A text file has no counterfactuals, and without groups no retrieval either.
TEXT_GATE = Gate(
    (
        *(c for c in GATE.criteria if not c.metric.startswith("told_apart") and c.metric != "recall_at_1"),
        Criterion("recall_at_1", at_least=0.40, source="calibrated", why="among 500 unseen captions, as in P2: what "
                  "finds nothing has nothing to lose"),
    )
)  # fmt: skip

PLAIN_TEXT_GATE = Gate(c for c in TEXT_GATE.criteria if not c.metric.startswith("recall"))

REMEDIES = (
    Remedy(
        ("cosine_under_cutout", "recall_drop_under_cutout"),
        {"training.objective.jitter.cutout": lambda size: max(2, size - 2)},
        "if not: reduce cutout size",
    ),
    Remedy(
        tuple(f"cosine_under_{name}" for name in TRANSFORMS),
        {"training.objective.invariance": lambda weight: 2 * weight},
        "ours: a heavier invariance penalty",
    ),
)


def gate_for_corpus(data: DataConfig) -> Gate:
    """The gate for the corpus: the grammar, groups of paraphrases (.tsv), or single sentences."""
    if not data.text:
        return GATE
    return TEXT_GATE if is_grouped(data.text) else PLAIN_TEXT_GATE


def kept_criteria(data: DataConfig) -> tuple[Criterion, ...]:
    """This gate, for a later phase that moves the encoder to be asked beside its own; none of it is that one's plan."""
    return tuple(replace(criterion, source="calibrated") for criterion in gate_for_corpus(data).criteria)


def transforms(seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """What T is made of, each alone and at full strength; directions and places are drawn once for all."""

    def shifted(latent_NCHW: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        corner_2N = SHIFT * (2 * torch.randint(0, 2, (2, len(latent_NCHW)), generator=generator) - 1)
        return shift(latent_NCHW, *corner_2N.unbind())

    def holed(latent_NCHW: Tensor) -> Tensor:
        return cutout(latent_NCHW, CUTOUT, generator=torch.Generator().manual_seed(seed))

    return {"shift": shifted, "blur": lambda latent_NCHW: blur(latent_NCHW, BLUR), "cutout": holed}


def cosine_under(codec: TrainedCodec, latent_NCHW: Tensor, change: Callable[[Tensor], Tensor]) -> Estimate:
    """Mean cosine of g(V) with g(T(V))."""
    cosine_N = (embed(codec, latent_NCHW) * embed(codec, change(latent_NCHW))).sum(1)
    return bootstrap_mean(cosine_N, "sentences")


def measure_jitter(
    codec: TrainedCodec,
    latent_NCHW: Tensor,
    pools: Mapping[int, list[EncodedPool]],
    pairs: Mapping[int, EncodedPairs],
    decide: int,
    seed: int,
) -> dict[str, Estimate]:
    """Cosines, what retrieval loses, and edits told apart, under each transform."""
    z_NZ = embed(codec, latent_NCHW)
    other_N = derangement(len(z_NZ), generator=torch.Generator().manual_seed(seed)).numpy()
    metrics = {"cosine_of_strangers": bootstrap_mean((z_NZ * z_NZ[other_N]).sum(1), "sentences")}
    still = {n: found(codec, p, 1) for n, p in pools.items()}
    if still:
        recalled = {n: proportion(int(f_N.sum()), len(f_N), "scenes") for n, f_N in still.items()}
        metrics |= by_facts("recall_at_1", recalled) | {"recall_at_1": worst(recalled, decide)}
    lowest = {n: min(told_apart_by_edit(codec, p).values(), key=lambda e: e.value) for n, p in pairs.items()}
    if lowest:
        metrics |= by_facts("told_apart", lowest) | {"told_apart": worst(lowest, decide)}
    for name, change in transforms(seed).items():
        metrics[f"cosine_under_{name}"] = cosine_under(codec, latent_NCHW, change)
        lost = {n: drop(still[n], found(codec, p, 1, change), "scenes") for n, p in pools.items()}
        if lost:
            metrics |= by_facts(f"recall_drop_under_{name}", lost)
            metrics[f"recall_drop_under_{name}"] = worst(lost, decide, largest=True)
        told = {n: _together(told_apart_by_edit(codec, p, change)) for n, p in pairs.items()}
        if told:
            metrics |= by_facts(f"told_apart_under_{name}", told) | {f"told_apart_under_{name}": worst(told, decide)}
    return metrics


def measure_kept(
    codec: TrainedCodec, source: Source, data: DataConfig, measured: Measured, seed: int
) -> dict[str, Estimate]:
    """Everything that this phase's gate asks: whatever moves the encoder afterwards has to keep it, and is asked again.

    Statistics of V, retrieval and edits with and without jitter, on held-out sentences.
    """
    sentences = source.held_out(measured.held_out)
    pools: dict[int, list[EncodedPool]] = {}
    pairs: dict[int, EncodedPairs] = {}
    if data.text:
        pools = {1: of_text} if (of_text := text_pools(codec, source)) else {}
    else:
        for n in facts_of(data):
            sizes = measured.of(n)
            pools[n] = [encode_scene_pool(codec, sizes.pool_size, n, seed) for seed in range(sizes.pools)]
            pairs[n] = encode_pairs(codec, scene_pairs(n, sizes.per_edit, seed=0))
    latent_NCHW = encode(codec.to_latent, sentences)
    return picture_metrics(codec, sentences, seed) | measure_jitter(
        codec, latent_NCHW, pools, pairs, measured.decide, seed
    )


def _together(edits: Mapping[str, Estimate]) -> Estimate:
    total = sum(e.n for e in edits.values())
    right = round(sum(e.value * e.n for e in edits.values()))
    return proportion(right, total, "scenes")


def draw_jitter(run: RunDir, codec: TrainedCodec, latent_NCHW: Tensor, metrics: Mapping[str, Estimate]) -> None:
    """The curve of cosine against shift."""

    def along(pixels: int) -> Callable[[Tensor], Tensor]:
        return lambda latent: shift(latent, torch.full((len(latent),), pixels), torch.full((len(latent),), pixels))

    curve = as_rows([cosine_under(codec, latent_NCHW, along(pixels)) for pixels in SHIFTS])
    others = [f"blur {BLUR:g} px", f"hole {CUTOUT} px"]
    points = as_rows([metrics["cosine_under_blur"], metrics["cosine_under_cutout"]])
    meaning_figures.jitter_curve(
        np.array(SHIFTS, dtype=np.float64),
        curve,
        others,
        points,
        run.figures / "jitter_curve.png",
        different=metrics["cosine_of_strangers"].value,
    )
    note_captions(run)


def run(context: Context) -> Mapping[str, Estimate]:
    """Go on with P2's codec under jitter, then measure the averaged weights."""
    config: Config = context.config
    source = open_source(config.data)
    before = context.inputs["P2"]
    check_recipe(config.recipe, from_yaml(Before, before.path / RunDir.CONFIG).recipe, "P2", before)
    codec = load_codec(before.path)
    plan = config.recipe == "plan"
    training = plan_training(config.training, invariant=True) if plan else config.training
    frozen = ("reader", "z_enter", "decoder") if plan else ()
    if not plan:
        codec = begin_codec(context, codec, source, training, config.beginning)
    terms = plan_terms_of(training, source) if plan else None
    codec, result = train_codec(context, codec, source, training, frozen=frozen, terms=terms)
    save_codec(codec, context.run.path / CODEC_WEIGHTS)
    metrics = measure_kept(codec, source, config.data, config.measured, context.seed)
    latent_NCHW = encode(codec.to_latent, source.held_out(config.measured.held_out))
    montage_NCHW = encode(codec.to_latent, list(source.montage))
    draw_latents(context.run, montage_NCHW, source.montage, latent_NCHW, result.evaluations)
    draw_jitter(context.run, codec, latent_NCHW, metrics)
    write_summary(context.run, result, source, metrics)
    return metrics


PHASE = Phase(
    code="P3",
    name="jitter",
    question="Does a small shift, a mild blur or a small hole leave the meaning of the picture?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    gate_for=lambda config: gate_for_corpus(config.data),
    run=run,
    several=True,
    needs=("P2",),
    seeds=(0, 1, 2),
    corpus_seeds=(0,),
    remedies=REMEDIES,
    check=lambda config: check_training(config.data, config.training, config.recipe),
    failure_means="Meaning is hidden in single pixels: a code that looks like a picture, and is none.",
)
