"""One arm of P7: a variant trained from fresh weights with one seed, and everything that is measured of it.

A finished arm is one file of JSON, so a run that was stopped trains none twice. Steps past the picture, which many
variants share to the last bit, are taken once for all of them.

Legend: N sentences, Q queries, M items of a pool, C, H, W of the latent.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inscape import stats
from inscape.core.config import fingerprint
from inscape.core.rundir import RunDir
from inscape.core.study import Context
from inscape.data.scenes import Scene
from inscape.data.scenes.pools import CodecSet, codec_set, edit_pairs, retrieval_pool
from inscape.device import seed_everything
from inscape.metrics.retrieval import TIE, target_ranks
from inscape.metrics.scene_graph import scene_exact, text_graph_f1
from inscape.metrics.text import rouge_l
from inscape.nn.jitter import JitterConfig, shift
from inscape.nn.latent_encoder import LatentEncoder
from inscape.stats.photographs import BANDS, SIDE, STATISTICS, describe
from inscape.stopping import part_of
from inscape.studies.visual.ablation_memory import forget_peak, peak
from inscape.studies.visual.ablation_variants import Recipe
from inscape.studies.visual.beginning import begin_codec
from inscape.studies.visual.codec_training import new_codec, train_codec
from inscape.studies.visual.coding import Reading, embed, embed_sentences, say
from inscape.studies.visual.decoding_metrics import swapped
from inscape.studies.visual.losses import Weights, pooled_correlation
from inscape.studies.visual.meaning import Measured
from inscape.studies.visual.meaning_metrics import HELD_OUT
from inscape.studies.visual.model import CODEC_WEIGHTS, TextToLatent, TrainedCodec, encode, save_codec
from inscape.studies.visual.objective import objective_terms
from inscape.studies.visual.paraphrasing import Candidate, best_round_trips, candidates
from inscape.studies.visual.roundtrip_terms import RoundTrip, round_trip_terms
from inscape.studies.visual.sources import Source

__all__ = ["Arm", "copied_share", "measure_arm", "past_key", "read_arm", "remove_beginnings", "train_arm"]

MEASURED = "measured.json"
BEGUN = "begun"
SEEN = "test"  # scenes that were never trained on, of combinations that were
SWAPS = ("arguments", "binding")
SHIFT = 2  # pixels: the plan's
GROUP = 16  # sentences whose pixels are pooled for one correlation between channels
TIMED = 3  # repeats of what is timed; the best counts


class Arm(NamedTuple):
    """What was measured: metric -> one value a unit (the same units, in the same order, in every arm), and figures."""

    values: dict[str, list[float]]
    slopes: list[float]  # of single channels
    correlation: list[list[float]]  # of channels, over all pixels
    figures: dict[str, float]  # cost: parameters, seconds, rates, bytes


def train_arm(
    context: Context,
    source: Source,
    recipe: Recipe,
    name: str,
    measure: Callable[[TrainedCodec], Arm],
    *,
    past_seed: int,
) -> Arm:
    """Train and measure, or read what an earlier attempt has measured.

    past_seed: of the first weights and the steps past the picture; what follows is drawn from the context's seed.
    """
    with part_of(context.run, f"arms/{name}") as part:
        done = read_arm(part)
        if done is not None:
            return done
        codec, figures = _train(
            replace(context, run=part), _past(replace(context, seed=past_seed), source, recipe), source, recipe
        )
        save_codec(codec, part.path / CODEC_WEIGHTS, half=True)
        arm = measure(codec)
        arm = arm._replace(figures=arm.figures | figures)
        part.write_json(MEASURED, arm._asdict())
        for folder in ("", "picture", "tail"):
            shutil.rmtree(part.path / folder / "checkpoints", ignore_errors=True)
    return arm


def read_arm(part: RunDir) -> Arm | None:
    """What a finished arm has measured; None if it is not finished."""
    content = part.read_json(MEASURED)
    return None if content is None else Arm(**content)


def remove_beginnings(run: RunDir) -> None:
    """Delete the checkpoints that arms have begun with, once all are finished: a gigabyte."""
    for folder in (run.path / BEGUN).glob("*/past/checkpoints"):
        shutil.rmtree(folder, ignore_errors=True)


def past_key(recipe: Recipe, seed: int) -> str:
    """What the steps past the picture depend on, as eight hex digits: neither on the picture, nor on its prior."""
    still = replace(
        recipe.training.objective,
        image=0.0,
        noise=0.0,
        jitter=JitterConfig(),
        prior=Weights(),
        share=0.0,
        dimensions=1.0,
    )
    training = replace(recipe.training, objective=still)
    return fingerprint(_Past(recipe.encoder, recipe.codec, replace(recipe.beginning, picture=0), training, seed))


@dataclasses.dataclass(frozen=True)
class _Past:
    encoder: Any
    codec: Any
    beginning: Any
    training: Any
    seed: int


def _past(context: Context, source: Source, recipe: Recipe) -> TrainedCodec:
    """The codec after the steps past the picture, of the first arm that needs them."""
    seed_everything(context.seed)
    sizes = replace(recipe.encoder, vocab=source.tokenizer.vocab_size)
    codec = new_codec(TextToLatent(LatentEncoder(sizes), source.tokenizer), recipe.codec, context.seed)
    if not recipe.beginning.past:
        return codec
    with part_of(context.run, f"{BEGUN}/{past_key(recipe, context.seed)}") as part:
        past_alone = replace(recipe.beginning, picture=0)
        return begin_codec(replace(context, run=part), codec, source, recipe.training, past_alone)


def _train(
    context: Context, codec: TrainedCodec, source: Source, recipe: Recipe
) -> tuple[TrainedCodec, dict[str, float]]:
    """The picture, everything, and the tail with the round trip; the averaged weights, and what the steps cost."""
    training, objective, vocab = recipe.training, recipe.training.objective, codec.tokenizer.vocab_size
    codec = begin_codec(context, codec, source, training, replace(recipe.beginning, past=0), prior=recipe.prior)
    watched = forget_peak()
    codec, together = train_codec(
        context,
        codec,
        source,
        training,
        terms=lambda m, b, step: objective_terms(m, b, step, objective, vocab, prior=recipe.prior),
        looks=False,
    )
    with part_of(context.run, "tail") as part:
        codec, tail = train_codec(
            context,
            codec,
            source,
            replace(training, fit=recipe.tail),
            terms=lambda m, b, step: round_trip_terms(
                m, b, step, objective, recipe.round_trip, vocab, prior=recipe.prior
            ),
            run=part,
            looks=False,
        )
    figures = {
        "seconds_a_step": together.seconds / together.steps,
        "seconds_a_step_of_the_tail": tail.seconds / tail.steps,
        "trained_a_second": training.batch * together.steps / together.seconds,
    }
    return codec, figures | (peak() if watched else {})


def measure_arm(
    codec: TrainedCodec,
    sentences: list[str],
    facts: int | None,
    measured: Measured,
    round_trip: RoundTrip,
    *,
    picture: bool,
    seed: int,
) -> Arm:
    """Everything, on sentences that are the same for all arms and seeds; image statistics are of `sentences`."""
    held = codec_set(measured.sentences, facts=facts, split=HELD_OUT)
    values = _retrieval(codec, facts, measured, picture) | _edits(codec, facts, measured.per_edit)
    latent_NCHW = encode(codec.to_latent, list(held.sentences))
    values |= _read_back(codec, latent_NCHW, held, "")
    wrong = say(codec, swapped(latent_NCHW), Reading(sees_z=False))
    values["scene_exact_swapped"] = _right(wrong, held.scenes)
    seen = codec_set(measured.sentences, facts=facts, split=SEEN)
    values |= _read_back(codec, encode(codec.to_latent, list(seen.sentences)), seen, "_seen")
    values["generalisation_gap"] = _gap(values)
    values |= _paraphrases(codec, held, max(8, measured.sentences // 2), round_trip, seed)
    slopes: list[float] = []
    correlation: list[list[float]] = []
    if picture:
        statistics, slopes, correlation = _picture(encode(codec.to_latent, sentences))
        values |= statistics
    shown = {name: [round(float(x), 6) for x in each] for name, each in values.items()}
    return Arm(shown, slopes, correlation, _costs(codec, list(held.sentences[:128]), latent_NCHW[:128]))


def _retrieval(codec: TrainedCodec, facts: int | None, measured: Measured, picture: bool) -> dict[str, Sequence[float]]:
    """Query by query: found first, among five, first though shifted; and, as a control, another query's paraphrase."""
    ranks: dict[str, list[np.ndarray]] = {}
    for pool_seed in range(measured.pools):
        pool = retrieval_pool(measured.pool_size, facts=facts, seed=pool_seed, split=HELD_OUT)
        pool_MZ = embed_sentences(codec, list(pool.pool))
        query_QCHW = encode(codec.to_latent, list(pool.queries))
        z_QZ = embed(codec, query_QCHW)
        ranks.setdefault("still", []).append(target_ranks(z_QZ, pool_MZ, pool.targets_N))
        ranks.setdefault("other", []).append(target_ranks(z_QZ, pool_MZ, np.roll(pool.targets_N, 1)))
        if picture:
            moved_QZ = embed(codec, _shifted(query_QCHW))
            ranks.setdefault("moved", []).append(target_ranks(moved_QZ, pool_MZ, pool.targets_N))
    rank = {name: np.concatenate(parts) for name, parts in ranks.items()}
    found = {
        "recall_at_1": rank["still"] < 1,
        "recall_at_5": rank["still"] < 5,
        "recall_at_1_shuffled": rank["other"] < 1,
    }
    return found | ({"recall_at_1_under_shift": rank["moved"] < 1} if picture else {})  # type: ignore[return-value]


def _shifted(latent_NCHW: Tensor) -> Tensor:
    """Each by 2 pixels both ways, in one of the four directions."""
    generator = torch.Generator().manual_seed(0)
    corner_2N = SHIFT * (2 * torch.randint(0, 2, (2, len(latent_NCHW)), generator=generator) - 1)
    return shift(latent_NCHW, *corner_2N.unbind())


def _edits(codec: TrainedCodec, facts: int | None, per_edit: int) -> dict[str, Sequence[float]]:
    """Triple by triple: nearer to the paraphrase than to the counterfactual."""
    pairs = edit_pairs(per_edit, facts=facts, seed=0, split=HELD_OUT)
    anchor_NZ = embed_sentences(codec, [pair.anchor for pair in pairs])
    same_NZ = embed_sentences(codec, [pair.paraphrase for pair in pairs])
    other_NZ = embed_sentences(codec, [pair.counterfactual for pair in pairs])
    right_N = (anchor_NZ * same_NZ).sum(1) > (anchor_NZ * other_NZ).sum(1) + TIE
    edit_N = np.array([pair.edit for pair in pairs])
    told = {f"told_apart_{edit}": right_N[edit_N == edit] for edit in dict.fromkeys(edit_N.tolist())}
    return told | {"told_apart_swaps": right_N[np.isin(edit_N, SWAPS)]}  # type: ignore[return-value]


def _read_back(codec: TrainedCodec, latent_NCHW: Tensor, held: CodecSet, suffix: str) -> dict[str, Sequence[float]]:
    """Free-running, greedy, from V alone."""
    said = say(codec, latent_NCHW, Reading(sees_z=False))
    same = [a == b for a, b in zip(said, held.sentences, strict=True)]
    return {f"scene_exact{suffix}": _right(said, held.scenes), f"sentence_exact{suffix}": same}


def _gap(values: dict[str, Sequence[float]]) -> list[float]:
    """Scene exactness of seen less that of held-out combinations, in pairs of sentences that have nothing in common.

    The two sets are drawn apart and are of one size, so the mean is the gap, an interval over pairs is one over both
    sets, and two variants are compared on the same pairs.
    """
    both = zip(values["scene_exact_seen"], values["scene_exact"], strict=True)
    return [float(seen) - float(held_out) for seen, held_out in both]


def _right(said: Sequence[str], scenes: Sequence[Scene]) -> list[float]:
    return [float(scene_exact(text, scene)) for text, scene in zip(said, scenes, strict=True)]


def _paraphrases(
    codec: TrainedCodec, held: CodecSet, count: int, trip: RoundTrip, seed: int
) -> dict[str, Sequence[float]]:
    """Of k samples the best round trip, as in P5, of the first `count` sentences; and all k, before the choice."""
    sentences, scenes = list(held.sentences[:count]), held.scenes[:count]
    drawn = candidates(codec, sentences, trip.candidates, seed=seed, top_p=trip.top_p)
    best = best_round_trips(codec, sentences, drawn, tie=trip.tie, read_back=trip.read_back)
    said = [candidate.text for candidate in best]
    return {
        "graph_f1": [text_graph_f1(text, scene) for text, scene in zip(said, scenes, strict=True)],
        "rouge_l": [rouge_l(a, b) for a, b in zip(sentences, said, strict=True)],
        "round_trip_cosine": [min(1.0, max(-1.0, candidate.cosine)) for candidate in best],
        "copy_rate": [float(a == b) for a, b in zip(sentences, said, strict=True)],
        **{f"{name}_of_all_samples": values for name, values in _before_the_choice(sentences, drawn, trip).items()},
    }


def _before_the_choice(
    sentences: Sequence[str], drawn: Sequence[Sequence[Candidate]], trip: RoundTrip
) -> dict[str, list[float]]:
    """Means over all samples of each sentence."""
    rows = list(zip(sentences, drawn, strict=True))
    return {
        "rouge_l": [mean(rouge_l(sentence, each.text) for each in row) for sentence, row in rows],
        "copied_runs": [mean(copied_share(s, each.text, trip.longest_copy + 1) for each in row) for s, row in rows],
        "round_trip_cosine": [mean(min(1.0, max(-1.0, each.cosine)) for each in row) for _, row in rows],
    }


def copied_share(sentence: str, text: str, length: int) -> float:
    """Share of the text's words that end a run of `length` words which the sentence holds as well."""
    ours, theirs = (tuple(each.split()) for each in (text, sentence))
    runs = {theirs[i : i + length] for i in range(len(theirs) - length + 1)}
    ends = sum(ours[i : i + length] in runs for i in range(len(ours) - length + 1))
    return ends / max(1, len(ours))


def _picture(latent_NCHW: Tensor) -> tuple[dict[str, Sequence[float]], list[float], list[list[float]]]:
    """Sentence by sentence, of the middle 32 x 32 pixels: P1's statistics, and whether they are a photograph's."""
    top, left = ((size - SIDE) // 2 for size in latent_NCHW.shape[-2:])
    latent_NCHW = latent_NCHW[..., top : top + SIDE, left : left + SIDE]
    count, channels = latent_NCHW.shape[:2]
    described_NCS = describe(latent_NCHW.flatten(0, 1)).reshape(count, channels, len(STATISTICS))
    values: dict[str, Sequence[float]] = {}
    for i, name in enumerate(STATISTICS):
        column_NC, band = described_NCS[:, :, i], BANDS[name]
        values[name] = column_NC.mean(1)  # type: ignore[assignment]
        values[f"{name}_in_photo_band"] = ((column_NC >= band.low) & (column_NC <= band.high)).mean(1)
    values["amplitude"] = stats.variance(latent_NCHW).sqrt().min(1).values.tolist()
    groups = [group for group in latent_NCHW.split(GROUP) if len(group) == GROUP] or [latent_NCHW]
    values["channel_correlation"] = [_largest_off_diagonal(pooled_correlation(group)) for group in groups]
    slopes = described_NCS[:, :, STATISTICS.index("spectral_slope")].ravel().round(4).tolist()
    return values, slopes, pooled_correlation(latent_NCHW).numpy().round(4).tolist()


def _largest_off_diagonal(correlation_CC: Tensor) -> float:
    return float((correlation_CC - torch.eye(len(correlation_CC))).abs().max())


def _costs(codec: TrainedCodec, sentences: list[str], latent_NCHW: Tensor) -> dict[str, float]:
    """Parameters, bytes of a latent, and sentences a second each way, beside whatever else the machine does."""
    return {
        "parameters": sum(p.numel() for p in codec.model.parameters()),
        "bytes_of_a_latent": latent_NCHW[0].numel() * latent_NCHW.element_size(),
        "encoded_a_second": len(sentences) / _least_seconds(lambda: encode(codec.to_latent, sentences)),
        "decoded_a_second": len(sentences) / _least_seconds(lambda: say(codec, latent_NCHW, Reading(sees_z=False))),
    }


def _least_seconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TIMED):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
