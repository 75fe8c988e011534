"""What the latent prior changes and what it draws: the measurements of P6, on held-out sentences.

A codec is looked at before and after, on the same sentences, so what is asked is how each of them changed. What is
drawn from noise is read by the decoder and encoded again: the decoder has learned its grammar so well that it makes
sentences of white noise too, so that a text parses says nothing, and that it comes back to the latent it was read from
says everything.

Legend: N triples or samples, S sentences, K latents the prior was trained on, C, H, W of the latent, Z width of z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inscape import stats
from inscape.core.estimate import Estimate, bootstrap_mean, proportion
from inscape.data.scenes import EDITS, Scene, split_of
from inscape.data.scenes.pools import CodecSet
from inscape.metrics.kept_share import mean_difference
from inscape.metrics.retrieval import TIE, target_ranks
from inscape.metrics.scene_graph import text_graph_f1
from inscape.metrics.text import rouge_l
from inscape.nn.jitter import shift
from inscape.stats.photographs import STATISTICS, deviations
from inscape.studies.visual.coding import Reading, embed, embed_sentences, encodable, say
from inscape.studies.visual.health import latent_health
from inscape.studies.visual.losses import PLAN_SLOPE, SLOPES
from inscape.studies.visual.meaning_metrics import EncodedPairs, drop
from inscape.studies.visual.model import TrainedCodec, encode
from inscape.studies.visual.paraphrasing import best_round_trips, candidates, meaning_of
from inscape.studies.visual.roundtrip_terms import RoundTrip

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = [
    "Looks",
    "Samples",
    "Trips",
    "changes",
    "examples",
    "fall",
    "look",
    "measure_denoise",
    "measure_samples",
    "nearest_distance",
    "read_samples",
    "retrieved",
    "round_trips",
    "score_drop",
    "trip_changes",
]

RESAMPLES = 2000
SHIFT = 2  # pixels: the plan's
SHOWN = ("spectral_slope", "gradient_kurtosis", "total_variation", "haar_sparsity", "peakedness")
EXAMPLES = 40  # samples that are kept in words
COMMON = 0.01  # share of unseen latents that lie as near to a trained one as a copied sample would


class Looks(NamedTuple):
    """One codec on the held-out triples and sentences of one number of facts; a row each, the same for every codec."""

    z_NZ: Float[np.ndarray, "N Z"]
    paraphrase_NZ: Float[np.ndarray, "N Z"]
    counterfactual_NZ: Float[np.ndarray, "N Z"]
    edits: tuple[str, ...]
    found_N: Bool[np.ndarray, " N"]  # the paraphrase is nearest among all paraphrases and counterfactuals
    found_moved_N: Bool[np.ndarray, " N"]  # the same, V shifted by 2 pixels both ways
    exact_S: Bool[np.ndarray, " S"]  # sentences that come back word for word


def look(codec: TrainedCodec, pairs: EncodedPairs, asked: CodecSet) -> Looks:
    """z of the triples, retrieval among them, and free-running text of the sentences asked for."""
    z_NZ = embed(codec, pairs.anchor_NCHW)
    latent = encode(codec.to_latent, list(asked.sentences))
    said = say(codec, latent, Reading())
    exact_S = np.array([a == b for a, b in zip(asked.sentences, said, strict=True)])
    moved_NZ = embed(codec, _shifted(pairs.anchor_NCHW))
    found = retrieved(z_NZ, pairs), retrieved(moved_NZ, pairs)
    return Looks(z_NZ, pairs.paraphrase_NZ, pairs.counterfactual_NZ, pairs.edits, *found, exact_S)


def _shifted(latent_NCHW: Tensor) -> Tensor:
    """Each by P3's 2 pixels both ways, in one of the four directions, which are the same for every codec."""
    generator = torch.Generator().manual_seed(0)
    corner_2N = SHIFT * (2 * torch.randint(0, 2, (2, len(latent_NCHW)), generator=generator) - 1)
    return shift(latent_NCHW, *corner_2N.unbind())


def retrieved(z_NZ: Float[np.ndarray, "N Z"], pairs: EncodedPairs) -> Bool[np.ndarray, " N"]:
    """R@1: of the paraphrases and counterfactuals of all triples, is the own paraphrase the nearest?"""
    pool_MZ = np.concatenate((pairs.paraphrase_NZ, pairs.counterfactual_NZ))
    return target_ranks(z_NZ, pool_MZ, np.arange(len(z_NZ))) < 1


def fall(before_N: np.ndarray, after_N: np.ndarray, unit: str, *, seed: int = 0) -> Estimate:
    """1 - mean after / mean before, of the same units: percentile bootstrap over units, both means of each resample.

    Where the mean before is 0 nothing can fall, and nothing is measured. ValueError on lengths that differ.
    Source: Efron & Tibshirani 1993, chapter 13.
    """
    before_N, after_N = np.asarray(before_N, np.float64), np.asarray(after_N, np.float64)
    if before_N.shape != after_N.shape or before_N.ndim != 1:
        raise ValueError(f"fall wants two rows of one length, given {before_N.shape} and {after_N.shape}")
    count, draw = len(before_N), np.random.default_rng(seed)
    if not count or not before_N.mean() > 0:
        return Estimate(math.nan, math.nan, math.nan, 0, unit)
    value = 1 - after_N.mean() / before_N.mean()
    if count == 1:
        return Estimate(value, math.nan, math.nan, 1, unit)
    resampled = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        rows = draw.integers(0, count, count)
        resampled[i] = 1 - after_N[rows].mean() / before_N[rows].mean()
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, min(float(low), value), max(float(high), value), count, unit)


def changes(before: Looks, after: Looks, without: Looks) -> dict[str, Estimate]:
    """What the training with the prior changed, and what the same training without it did."""
    own = [_distance(each.z_NZ, each.paraphrase_NZ) for each in (before, after, without)]
    edited = [_distance(each.z_NZ, each.counterfactual_NZ) for each in (before, after)]
    stranger = [_distance(each.z_NZ, np.roll(each.z_NZ, 1, 0)) for each in (before, after)]
    right = [_told_apart(each) for each in (before, after)]
    edit_N = np.array(before.edits)
    rows_by_edit = [rows for edit in EDITS if (rows := edit_N == edit).any()]
    by_edit = [drop(right[0][rows], right[1][rows], "scenes") for rows in rows_by_edit]
    cosine_N = (after.z_NZ * np.roll(after.z_NZ, 1, 0)).sum(1)
    return {
        "paraphrase_distance_before": bootstrap_mean(own[0], "scenes"),
        "paraphrase_distance": bootstrap_mean(own[1], "scenes"),
        "paraphrase_distance_without_prior": bootstrap_mean(own[2], "scenes"),
        "paraphrase_distance_fall": fall(own[0], own[1], "scenes"),
        "paraphrase_distance_fall_without_prior": fall(own[0], own[2], "scenes"),
        "paraphrase_distance_fall_by_prior": fall(own[2], own[1], "scenes"),
        "edit_distance_fall": fall(edited[0], edited[1], "scenes"),
        "stranger_distance_fall": fall(stranger[0], stranger[1], "scenes"),
        "cosine_of_strangers": bootstrap_mean(cosine_N, "scenes"),
        "told_apart": proportion(int(right[1].sum()), len(right[1]), "scenes"),
        "told_apart_drop": drop(right[0], right[1], "scenes"),
        "told_apart_drop_of_an_edit": max(by_edit, key=lambda e: e.high),
        "recall_at_1": proportion(int(after.found_N.sum()), len(after.found_N), "scenes"),
        "recall_drop": drop(before.found_N, after.found_N, "scenes"),
        "recall_at_1_under_shift": proportion(int(after.found_moved_N.sum()), len(after.found_N), "scenes"),
        "recall_drop_of_shifted": drop(before.found_moved_N, after.found_moved_N, "scenes"),
        "sentence_exact": proportion(int(after.exact_S.sum()), len(after.exact_S), "sentences"),
        "sentence_exact_drop": drop(before.exact_S, after.exact_S, "sentences"),
    }


class Trips(NamedTuple):
    """P5's metrics of one codec, a row each sentence, the same for every codec: of k samples the best round trip."""

    graph_f1_S: Float[np.ndarray, " S"]
    rouge_l_S: Float[np.ndarray, " S"]
    cosine_S: Float[np.ndarray, " S"]


def round_trips(codec: TrainedCodec, asked: CodecSet, count: int, trip: RoundTrip, seed: int) -> Trips:
    """Paraphrases of the first `count` sentences, sampled freely and chosen as P5 chooses them, and their scores."""
    sentences, scenes = list(asked.sentences[:count]), asked.scenes[:count]
    drawn = candidates(codec, sentences, trip.candidates, seed=seed, top_p=trip.top_p)
    best = best_round_trips(codec, sentences, drawn, tie=trip.tie, read_back=trip.read_back)
    return Trips(
        np.array([text_graph_f1(each.text, scene) for each, scene in zip(best, scenes, strict=True)]),
        np.array([rouge_l(sentence, each.text) for sentence, each in zip(sentences, best, strict=True)]),
        np.clip([each.cosine for each in best], -1, 1),
    )


def trip_changes(before: Trips, after: Trips) -> dict[str, Estimate]:
    """P5's metrics after the training, and what each is worse by; above 0 is worse."""
    unit = "sentences"
    return {
        "graph_f1": bootstrap_mean(after.graph_f1_S, unit, mostly_whole=True),
        "graph_f1_drop": score_drop(before.graph_f1_S, after.graph_f1_S, unit),
        "rouge_l": bootstrap_mean(after.rouge_l_S, unit),
        "rouge_l_rise": mean_difference(list(after.rouge_l_S), list(before.rouge_l_S), unit=unit),
        "round_trip_cosine": bootstrap_mean(after.cosine_S, unit),
        "round_trip_cosine_drop": mean_difference(list(before.cosine_S), list(after.cosine_S), unit=unit),
    }


def score_drop(before_S: np.ndarray, after_S: np.ndarray, unit: str) -> Estimate:
    """Mean before less mean after, of scores from 0 to 1 most of which are 1: `drop` for scores that are no shares.

    What was lost and what was won are bounded apart, each at least as widely as a share (`bootstrap_mean`), and the
    widths are added, for they are anything but independent. So where nothing changed the interval keeps a width.
    """
    change_S = np.asarray(before_S, np.float64) - np.asarray(after_S, np.float64)
    lost, won = (bootstrap_mean(np.clip(x, 0, None), unit, mostly_whole=True) for x in (change_S, -change_S))
    value = lost.value - won.value
    low = value - (lost.value - lost.low) - (won.high - won.value)
    return Estimate(value, low, value + (lost.high - lost.value) + (won.value - won.low), lost.n, unit)


def measure_denoise(latent_NCHW: Tensor, cleaned_NCHW: Tensor) -> dict[str, Estimate]:
    """What is left of P1's spectrum and total variation losses after one denoise.

    As the plan writes them; and `_off_photographs`, the deviations from photographs that the codec was trained on.
    """
    slope_C = torch.linspace(*SLOPES, latent_NCHW.shape[1])

    def off(x: Tensor, statistic: str) -> Tensor:
        return deviations(x, slope_C)[..., STATISTICS.index(statistic)].abs().mean(1)

    parts: dict[str, Callable[[Tensor], Tensor]] = {
        "spectrum": lambda x: (stats.spectral_slope(x) - PLAN_SLOPE).square().mean(1),
        "tv": lambda x: stats.total_variation(x).mean(1),
        "spectrum_off_photographs": lambda x: off(x, "spectral_slope"),
        "tv_off_photographs": lambda x: off(x, "total_variation"),
    }
    metrics = {}
    for name, loss in parts.items():
        before_N, after_N = loss(latent_NCHW).numpy(), loss(cleaned_NCHW).numpy()
        fallen = fall(before_N, after_N, "sentences")
        left = Estimate(1 - fallen.value, 1 - fallen.high, 1 - fallen.low, fallen.n, fallen.unit)
        metrics |= {
            f"{name}_left_by_denoise": left,
            f"{name}_of_latents": bootstrap_mean(before_N, "sentences"),
            f"{name}_of_denoised": bootstrap_mean(after_N, "sentences"),
        }
    error_N = (latent_NCHW - cleaned_NCHW).square().flatten(1).mean(1).numpy()
    return metrics | {"moved_by_denoise": bootstrap_mean(error_N, "sentences")}


class Samples(NamedTuple):
    """Latents with their z, what the decoder reads from them, and z of that; 0 where it cannot be encoded again."""

    latent_NCHW: Tensor
    z_NZ: Float[np.ndarray, "N Z"]
    texts: list[str]
    scenes: list[Scene | None]
    text_NZ: Float[np.ndarray, "N Z"]

    def cosine(self) -> Float[np.ndarray, " N"]:
        """Of each latent's z with that of its text."""
        return (self.z_NZ * self.text_NZ).sum(1)

    def cosine_with_next(self) -> Float[np.ndarray, " N"]:
        """Of each latent's z with that of the next one's text."""
        return (self.z_NZ * np.roll(self.text_NZ, -1, 0)).sum(1)


def read_samples(codec: TrainedCodec, latent_NCHW: Tensor) -> Samples:
    """Free-running text of each latent, encoded again where it can be."""
    texts, z_NZ = say(codec, latent_NCHW, Reading()), embed(codec, latent_NCHW)
    fits = [i for i, text in enumerate(texts) if encodable(codec, text)]
    text_NZ = np.zeros_like(z_NZ)
    if fits:
        text_NZ[fits] = embed_sentences(codec, [texts[i] for i in fits])
    return Samples(latent_NCHW, z_NZ, texts, [meaning_of(text) for text in texts], text_NZ)


def measure_samples(
    drawn: Samples,
    noise: Samples,
    real: Samples,
    unseen_NCHW: Tensor,
    trained_KCHW: Tensor,
    trained_on: Collection[Scene],
    seed: int,
) -> dict[str, Estimate]:
    """Are samples sentences, their own, new, and different? Beside white noise and real latents of held-out sentences.

    trained_KCHW and trained_on: the latents that the prior was trained on, and the scenes of their sentences.
    unseen_NCHW: latents of the same codec, of the held-out sentences of `real`, which may be another codec's: how near
    to a trained one a latent comes that was not copied can only be said of these.
    """
    parsed = [scene for scene in drawn.scenes if scene is not None]
    count, known = len(drawn.texts), frozenset(trained_on)
    copies = np.quantile(nearest_distance(unseen_NCHW, trained_KCHW), COMMON)
    copied_N = nearest_distance(drawn.latent_NCHW, trained_KCHW) < copies
    health = latent_health(drawn.latent_NCHW, seed=seed)
    shown = (*(f"{name}_in_photo_band" for name in SHOWN), "grid_energy", "amplitude")
    facts = {n: sum(len(scene.facts) == n for scene in parsed) for n in (1, 2, 3)}
    return {
        "samples_parse": proportion(len(parsed), count, "samples"),
        "samples_come_back": _share_of(drawn.cosine(), real.cosine()),
        "samples_distinct": proportion(len(set(parsed)), count, "samples"),
        "samples_copied": proportion(int(copied_N.sum()), count, "samples"),
        "samples_new_to_the_prior": proportion(sum(s not in known for s in parsed), count, "samples"),
        "samples_outside_training": proportion(sum(split_of(s) != "train" for s in parsed), len(parsed), "samples"),
        "samples_cosine": bootstrap_mean(drawn.cosine(), "samples"),
        "latents_cosine": bootstrap_mean(real.cosine(), "sentences"),
        "latents_parse": _parse(real),
        "moved_by_training": bootstrap_mean(
            (real.latent_NCHW - unseen_NCHW).square().flatten(1).mean(1).numpy(), "sentences"
        ),
        "noise_parses": _parse(noise),
        "noise_comes_back": _share_of(noise.cosine(), real.cosine()),
        "strangers_come_back": _share_of(real.cosine_with_next(), real.cosine()),
        **{
            f"samples_of_{n}_fact{'s' if n > 1 else ''}": proportion(c, len(parsed), "samples")
            for n, c in facts.items()
        },
        **{f"samples_{name}": health[name] for name in shown},
    }


def examples(samples: Samples) -> list[dict[str, object]]:
    """The first samples, for the report: what is read off them, and whether it comes back."""
    rows = zip(samples.texts, samples.cosine(), samples.scenes, strict=True)
    return [
        {"sample": text, "cosine": round(float(cosine), 4), "parsed": scene is not None}
        for text, cosine, scene in list(rows)[:EXAMPLES]
    ]


def nearest_distance(latent_NCHW: Tensor, trained_KCHW: Tensor) -> np.ndarray:
    """Root mean square difference of each latent to the nearest trained one."""
    trained_KF = trained_KCHW.flatten(1)
    parts = [torch.cdist(part, trained_KF).min(1).values for part in latent_NCHW.flatten(1).split(256)]
    return (torch.cat(parts) / trained_KF.shape[1] ** 0.5).numpy()


def _share_of(ours_N: np.ndarray, real_N: np.ndarray) -> Estimate:
    """Mean of ours over the mean of the real ones, which is taken as known."""
    return bootstrap_mean(ours_N / max(float(real_N.mean()), 1e-6), "samples")


def _parse(samples: Samples) -> Estimate:
    return proportion(sum(scene is not None for scene in samples.scenes), len(samples.scenes), "samples")


def _distance(first_NZ: np.ndarray, second_NZ: np.ndarray) -> np.ndarray:
    return np.linalg.norm(first_NZ - second_NZ, axis=1)


def _told_apart(looks: Looks) -> np.ndarray:
    own_N = (looks.z_NZ * looks.paraphrase_NZ).sum(1)
    other_N = (looks.z_NZ * looks.counterfactual_NZ).sum(1)
    return own_N - other_N > TIE
