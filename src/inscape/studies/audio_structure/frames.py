"""A2: which frames are asked about, and does a context end where it should?

Method: a table with one row for each frame whose context of W frames is whole at every lag, with its speaker, split,
place in the utterance and loudness. The alignment rule is checked where its answer is known: in a latent whose frame i
is the number i, planted in a store of its own and read by the same functions. With a context of 4 frames the mean is
7.5 for frame 10 at lag 1, and 11.5 and 9.5 for frame 15 at lags 2 and 4; a context that leaves out its last frame, as
in the first experiment of this kind, gives other numbers. Window, lags and what counts as too short are the plan's, for
LibriSpeech (Panayotov et al. 2015).

A negative result would mean that a later prediction looks at other frames than it says, perhaps at its own target.

Cost: a second on one CPU core for quick; a minute for 100 hours.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import write_json_atomically
from inscape.core.study import Context, Phase
from inscape.data.latent_frames import FRAMES, FrameCounts, first_eligible, write_frames
from inscape.data.latent_store import FORMAT, PLAN, LatentStore, Shard, StoredUtterance, open_store, save_shard
from inscape.extras import load_extra
from inscape.stats.conditioning import context_scores
from inscape.stats.context_windows import TRAIN, Utterance, Windows, deltas, flat_contexts, mean_contexts
from inscape.stats.streamed_pca import accumulate_moments, context_covariance, survey
from inscape.studies.audio_structure.latents import LATENTS, OF, latents_sha256
from inscape.studies.audio_structure.sources import CORPUS, SpeechConfig, check_codec_kind, read_splits_of

__all__ = ["COUNTS", "GATE", "PHASE", "Config", "split_of_utterances"]

COUNTS = "frames.json"  # how the table was made, for those who read it
LEAST_OF_SPEAKER = 50  # frames of a speaker whose own ratio the plan reports
FIT = ("train", "heldout")  # utterances of train speakers
STEP = 2.0**-10  # a grid on which the numbers of frames lie


@dataclass(frozen=True)
class Config:
    """What a context is. The defaults are the plan's."""

    data: SpeechConfig = field(default_factory=SpeechConfig)  # A0's
    window: int = 8  # frames of a context
    max_lag: int = 4  # frames; the largest distance between a context's end and its target
    min_sec: float = 3.0  # seconds; shorter utterances are left out

    def __post_init__(self) -> None:
        for name, low, high in (("window", 1, 1000), ("max_lag", 1, 1000), ("min_sec", 0, 3600)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: {low} to {high}")


GATE = Gate(
    (
        Criterion("alignment_errors", at_most=0, role="control", source="calibrated", why="a context one frame off "
                  "sees its target or misses the past; the latent that counts its frames says so"),
        Criterion("frames_missing", at_most=0, role="control", source="calibrated", why="the rule gives the number of "
                  "rows without the table"),
        Criterion("high_energy_deviation", at_most=0.05, role="control", source="calibrated", why="half of the train "
                  "speakers' frames are louder than their median by construction; ties alone can move that"),
        Criterion("eligible_share", at_least=0.5, source="calibrated", why="where most frames are cut off, the "
                  "utterances are too short for the window and the lags"),
        Criterion("train_frames", at_least=6400, source="calibrated", why="64 clusters of the 100 frames that the plan "
                  "asks of each"),
        Criterion("measurable_eval_speakers", at_least=6, source="calibrated", why="those with the 50 frames that the "
                  "plan asks of a speaker; 6 as in A0"),
    )
)  # fmt: skip


class Tally(NamedTuple):
    """What the written table holds."""

    split: Counter[str]  # rows
    loud: Counter[str]  # rows of high energy
    speaker: Counter[tuple[str, str]]  # rows of (split, speaker)


def tally(path: Path) -> Tally:
    """Count the table's rows, a row group at a time."""
    parquet = load_extra("pyarrow.parquet", "audio", "reading the table of frames")
    found = Tally(Counter(), Counter(), Counter())
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            part = file.read_row_group(group, columns=["split", "speaker_id", "is_high_energy"])
            counts = part.group_by(part.column_names).aggregate([([], "count_all")])
            for row in counts.to_pylist():
                rows = row["count_all"]
                found.split[row["split"]] += rows
                found.loud[row["split"]] += rows * row["is_high_energy"]
                found.speaker[row["split"], row["speaker_id"]] += rows
    return found


def expected_rows(store: LatentStore, split_of: Mapping[str, str], first: int, min_sec: float) -> int:
    """Rows that the rule gives, from the index alone."""
    return sum(
        max(row.n_frames - first, 0)
        for row in store.utterances
        if row.utterance_id in split_of and row.duration_sec >= min_sec
    )


def loud_share(
    store: LatentStore, split_of: Mapping[str, str], counts: FrameCounts, found: Tally, first: int, min_sec: float
) -> float:
    """Share of the train speakers' frames that are of high energy: the table's, and those before the first context."""
    loud, frames = sum(found.loud[split] for split in FIT), 0
    for i, row in enumerate(store.utterances):
        if split_of.get(row.utterance_id) in FIT and row.duration_sec >= min_sec:
            loud += int((store.energy(i)[:first].astype(np.float64) > counts.energy_median).sum())
            frames += row.n_frames
    return loud / frames


def alignment_errors() -> tuple[int, int]:
    """How many of how many numbers are wrong in planted stores whose latent is the frame's own number."""
    wrong, checked = 0, 0
    for frames, window, lags in ((20, 4, (1, 2, 4)), (50, 8, (1, 2, 4)), (9, 1, (1,)), (12, 3, (2, 3))):
        with tempfile.TemporaryDirectory() as folder:
            store = _counting_store(Path(folder), frames)
            path = Path(folder, FRAMES)
            write_frames(store, {"planted": "train"}, path, window=window, max_lag=max(lags), min_sec=0)
            table = load_extra("pyarrow.parquet", "audio", "reading the table of frames").read_table(path)
            target_N = table["t"].to_numpy()
            due_N = np.arange(max(window - 1 + max(lags), 1), frames)
            pairs = [(target_N, due_N), (table["pos_frac"].to_numpy(), due_N / frames)]
            windows, latent_TD, energy_T = Windows(window, lags), store.latents(0), store.energy(0)
            pairs.append((deltas(latent_TD, windows)[:, 0], np.ones(len(due_N))))
            for lag in lags:
                # The plan's rule, in the plan's own words: end = t - L inclusive, start = end - W + 1.
                due_NW = np.array([range(t - lag - window + 1, t - lag + 1) for t in due_N])
                pairs += _contexts_and_due(Utterance("planted", latent_TD, energy_T, TRAIN), lag, windows, due_NW)
        for found, due in pairs:
            checked += due.size
            wrong += int((found != due).sum()) if found.shape == due.shape else due.size
    return wrong, checked


def _contexts_and_due(
    counted: Utterance, lag: int, windows: Windows, due_NW: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What every reader of contexts says of the latent that counts its frames, and what it has to say.

    The contexts themselves, their mean, their projections on each place, and the mean and covariance of all of them:
    the last two never see a context, and have offsets of their own.
    """
    latent_TD, window = counted.latent_TD, windows.window
    size = window * latent_TD.shape[1]

    def of_places(flat_NF: np.ndarray) -> np.ndarray:
        return flat_NF.reshape(len(flat_NF), window, -1)[..., 0]

    score_NF = context_scores(latent_TD, lag, windows, np.eye(size), np.zeros(size), STEP)
    moments = accumulate_moments(lambda: [counted], survey(lambda: [counted], windows))
    mean_F, covariance_FF = context_covariance(moments, lag)
    spread = np.var(due_NW[:, 0], ddof=1)  # every place counts on: all of them have it, and with one another, too
    return [
        (of_places(flat_contexts(latent_TD, lag, windows)), due_NW),
        (mean_contexts(latent_TD, lag, windows)[:, 0], due_NW.mean(1)),
        (of_places(score_NF), due_NW),
        (of_places(mean_F[None])[0], due_NW.mean(0)),
        (np.round(covariance_FF - spread, 6), np.zeros((size, size))),
    ]


def _counting_store(folder: Path, frames: int) -> LatentStore:
    """One utterance, 2 dimensions, x[i] = i."""
    count_T = np.arange(frames, dtype=np.float32)
    rows = [StoredUtterance("planted", "planted", frames, frames / 10, "planted")]
    write_json_atomically(folder / PLAN, {"format": FORMAT, "shards": 1})
    save_shard(folder, 0, Shard("planted", "planted", 10.0, 2, rows, []), [np.stack([count_T] * 2, 1)], [count_T])
    return open_store(folder)


def split_of_utterances(context: Context) -> dict[str, str]:
    """The split of each utterance, by A0. ValueError if A1 made latents of another corpus."""
    corpus, latents = context.inputs["A0"], context.inputs["A1"]
    known, used = (corpus.read_json(CORPUS) or {}).get("sha256"), (latents.read_json(OF) or {}).get("corpus_sha256")
    if known is None or known != used:
        raise ValueError(f"the latents in {latents.path} are of another corpus than {corpus.path}: run A1 again")
    return read_splits_of(corpus).split_of


def check(config: Config) -> None:
    """ValueError where the table cannot be written, and on a codec that nobody knows."""
    check_codec_kind(config.data.codec)
    load_extra("pyarrow", "audio", "the table of frames")


def run(context: Context) -> Mapping[str, Estimate]:
    """Write the table, then count what it holds against what the rule says."""
    config: Config = context.config
    split_of = split_of_utterances(context)
    store = open_store(context.inputs["A1"].path / LATENTS)
    path, first = context.run.path / FRAMES, first_eligible(config.window, config.max_lag)
    counts = write_frames(store, split_of, path, window=config.window, max_lag=config.max_lag, min_sec=config.min_sec)
    found = tally(path)
    asked = {
        "latents_sha256": latents_sha256(context.inputs["A1"]),
        "window": config.window,
        "max_lag": config.max_lag,
        "min_sec": config.min_sec,
        "first_eligible": first,
    }
    held = {"rows": dict(found.split), "high_energy": dict(found.loud)}
    context.run.write_json(COUNTS, {**asked, **counts._asdict(), **held})
    loud = loud_share(store, split_of, counts, found, first, config.min_sec)
    missing = abs(expected_rows(store, split_of, first, config.min_sec) - found.split.total())
    speakers = [speaker for (split, speaker), rows in found.speaker.items() if split == "eval"]
    heard = [s for s in speakers if found.speaker["eval", s] >= LEAST_OF_SPEAKER]
    fit = [speaker for (split, speaker), count in found.speaker.items() if split == "train" and count]
    in_split = sum(row.n_frames for row in store.utterances if row.utterance_id in split_of)
    rows = {split: found.split[split] for split in (*FIT, "eval")}
    return {
        "alignment_errors": exact(*alignment_errors(), "numbers"),
        "frames_missing": exact(missing, counts.utterances, "utterances"),
        "high_energy_deviation": exact(abs(loud - 0.5), counts.utterances, "utterances"),
        "eligible_share": exact(counts.frames / in_split, counts.utterances, "utterances"),
        "measurable_eval_speakers": exact(len(heard), len(speakers), "speakers"),
        "speakers_fitted_on": exact(len(fit), len(fit), "speakers"),
        **{f"{split}_frames": exact(n, counts.utterances, "utterances") for split, n in rows.items()},
        **{
            f"high_energy_share_{split}": exact(found.loud[split] / n, counts.utterances, "utterances")
            for split, n in rows.items()
            if n
        },
        "too_short": exact(counts.too_short, len(store), "utterances"),
    }


PHASE = Phase(
    code="A2",
    name="frames",
    question="Which frames are asked about, and does a context end where it should?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=("A0", "A1"),
    check=check,
    failure_means="A later prediction would look at other frames than it says, perhaps at its own target.",
)
