"""A0: are there enough voices, and does none of them stand on both sides?

Method: every recording is read whole; one that is no audio, is broken, silent or too short, or has the samples of
another, is set aside with its reason. The speakers of the others are split once: those that things are fitted on, and
those that they are tested on (the plan's split of LibriSpeech, Panayotov et al. 2015: 200 and 51 of 251 speakers).
Leaks are counted in the files that later phases read, by speaker, by utterance, and by the sound itself.

A negative result would mean that a structure found here could be that of the voices it was fitted on.

Cost: quick 5 seconds on one CPU core, most of it the speaking of 120 utterances; LibriSpeech's 100 hours about 10
minutes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.study import Context, Phase
from inscape.data.speech.audio_files import AUDIO_SUFFIXES, Quarantined, read_or_quarantine
from inscape.data.speech.corpus import Corpus, Utterance, printable
from inscape.data.speech.splits import SPLIT_FILES, Splits, split_speakers, write_splits
from inscape.studies.audio_structure.sources import (
    CORPUS,
    QUARANTINE,
    SPLITS,
    UTTERANCES,
    Recording,
    SpeechConfig,
    check_codec_kind,
    check_speech,
    open_corpus,
    workers,
)

__all__ = ["GATE", "PHASE", "PLAN_GATE", "Config"]

READERS = 2  # threads that read, and processes that speak, unless INSCAPE_WORKERS says how many
READ_HZ = 16_000  # LibriSpeech's own rate, so that its files are decoded and not resampled


@dataclass(frozen=True)
class Config:
    """What is read."""

    data: SpeechConfig = field(default_factory=SpeechConfig)


LEAST_TRAIN, LEAST_EVAL = 12, 6  # speakers
NO_LEAK = Criterion(
    "split_leaks", at_most=0, role="control", source="calibrated", why="a voice, an utterance or a sound that stands "
    "on both sides would make any structure hold across speakers",
)  # fmt: skip
USABLE = Criterion(
    "usable_share", at_least=0.5, source="calibrated", why="a few broken files harm nothing; where most cannot be "
    "used, the folder is not what it was taken for",
)  # fmt: skip

GATE = Gate(
    (
        NO_LEAK,
        USABLE,
        Criterion("eval_speakers", at_least=LEAST_EVAL, source="calibrated", why="the least number of voices that, all "
                  "of one mind, reach 5 % in a two-sided sign test"),
        Criterion("train_speakers", at_least=LEAST_TRAIN, source="calibrated", why="twice as many to fit on as to test "
                  "on, or what is fitted is the voices themselves"),
    )
)  # fmt: skip

PLAN_GATE = Gate(  # where recordings are asked for the plan's numbers
    (
        NO_LEAK,
        USABLE,
        Criterion("train_speakers", at_least=200, why="200 of LibriSpeech train-clean-100's 251 speakers"),
        Criterion("eval_speakers", at_least=51, why="the next 51 of them"),
    )
)


def gate_for(config: Config) -> Gate:
    """The plan's numbers of speakers where recordings are asked for them, else the least that mean anything."""
    data = config.data
    return PLAN_GATE if data.path and (data.train, data.eval) == (200, 51) else GATE


def looked_at(utterances: Sequence[Utterance], threads: int) -> tuple[list[Recording], list[Quarantined]]:
    """What can be used, in the order of the ids, and what was set aside: the second of two equal sounds, too."""
    with ThreadPoolExecutor(threads) as pool:  # decoding holds no lock
        found = list(pool.map(_look, utterances))
    usable: list[Recording] = []
    set_aside = [f for f in found if isinstance(f, Quarantined)]
    first: dict[str, str] = {}
    for recording in (f for f in found if isinstance(f, Recording)):
        if recording.sha256 in first:
            set_aside.append(Quarantined(recording.path, f"a copy: sample for sample {first[recording.sha256]}"))
        else:
            first[recording.sha256] = recording.utterance_id
            usable.append(recording)
    return usable, set_aside


def _look(utterance: Utterance) -> Recording | Quarantined:
    samples_S = read_or_quarantine(utterance.path, READ_HZ)
    if isinstance(samples_S, Quarantined):
        return samples_S
    path = str(utterance.path.absolute())
    return Recording(utterance.utterance_id, utterance.speaker_id, path, len(samples_S) / READ_HZ, _digest(samples_S))


def _digest(samples_S: np.ndarray) -> str:
    """Of the sound and not of its file: of samples as 16 bits hold them, so that a wav is its flac's copy."""
    return hashlib.sha256(np.rint(samples_S * 32768).astype("<i4").tobytes()).hexdigest()


def split_leaks(folder: Path, recordings: Sequence[Recording]) -> int:
    """Speakers, utterances and sounds on two sides, and utterances on a wrong one, in the files that were written."""
    lines = {name: (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in SPLIT_FILES}
    fit, test = set(lines["train_speakers"]), set(lines["eval_speakers"])
    sides = {"train": set(lines["train_utt_ids"]), "eval": set(lines["eval_utt_ids"])}
    sides["heldout"] = {r.utterance_id for r in recordings if r.speaker_id in fit} - sides["train"]
    speaker = {r.utterance_id: r.speaker_id for r in recordings}
    sound = {r.utterance_id: r.sha256 for r in recordings}
    leaks = len(fit & test)
    for name, allowed in (("train", fit), ("eval", test)):
        leaks += sum(speaker.get(utterance) not in allowed for utterance in sides[name])
    heard = {name: {sound.get(utterance, utterance) for utterance in ids} for name, ids in sides.items()}
    for one, other in (("train", "eval"), ("train", "heldout"), ("heldout", "eval")):
        leaks += len(sides[one] & sides[other]) + len(heard[one] & heard[other])
    return leaks


def fingerprint(recordings: Sequence[Recording]) -> str:
    """Of who says what in which sound; where the files lie does not matter."""
    rows = [(r.utterance_id, r.speaker_id, r.sha256) for r in recordings]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def description(
    data: SpeechConfig, corpus: Corpus, recordings: Sequence[Recording], set_aside: int, splits: Splits
) -> dict[str, Any]:
    """What the data was: corpus.json."""
    split_of = splits.split_of
    sizes = {
        name: {"speakers": len({r.speaker_id for r in rows}), "utterances": len(rows), "hours": _hours(rows)}
        for name in ("train", "heldout", "eval")
        for rows in [[r for r in recordings if split_of.get(r.utterance_id) == name]]
    }
    return {
        "corpus": str(corpus.root.absolute()) if data.path else "synthetic voices of espeak-ng",
        "layout": corpus.layout,
        "audio_files": len(corpus.utterances) + corpus.without_speaker,
        "without_speaker": corpus.without_speaker,
        "other_files": corpus.other_files,
        "set_aside": set_aside,
        "speakers": len({r.speaker_id for r in recordings}),
        "utterances": len(recordings),
        "hours": _hours(recordings),
        "sha256": fingerprint(recordings),
        "split_seed": data.seed,
        "splits": sizes,
    }


def fitted_on(recordings: Sequence[Recording], splits: Splits) -> int:
    """How many of the train speakers have an utterance that is not held out: of one who has a single one, it may be."""
    train = set(splits.train_utt_ids)
    return len({r.speaker_id for r in recordings if r.utterance_id in train})


def _hours(recordings: Sequence[Recording]) -> float:
    return sum(r.seconds for r in recordings) / 3600


def reasons(set_aside: Sequence[Quarantined]) -> dict[str, int]:
    """How many files were set aside for which reason, the commonest first, without what it says of a single file."""
    return dict(Counter(printable(q.reason).partition(":")[0] for q in set_aside).most_common())


def write_findings(
    run: RunDir, data: SpeechConfig, corpus: Corpus, recordings: Sequence[Recording], set_aside: Sequence[Quarantined]
) -> Splits:
    """Split the speakers and write corpus.json, utterances.json, quarantine.json and splits/."""
    utterances = [Utterance(r.utterance_id, r.speaker_id, Path(r.path)) for r in recordings]
    splits = split_speakers(utterances, data.train, data.eval, seed=data.seed, heldout_share=data.heldout)
    root = run.path.absolute()
    inside = [r._replace(path=str(Path(r.path).relative_to(root))) if not data.path else r for r in recordings]
    files = [{"path": printable(q.path), "reason": printable(q.reason)} for q in set_aside]
    write_splits(splits, run.path / SPLITS)
    run.write_json(UTTERANCES, inside)
    run.write_json(QUARANTINE, {"set_aside": len(files), "reasons": reasons(set_aside), "files": files})
    run.write_json(CORPUS, description(data, corpus, recordings, len(set_aside), splits))
    if set_aside:
        said = ", ".join(f"{count} {reason}" for reason, count in reasons(set_aside).items())
        run.append_log({"kind": "notice", "text": f"{len(set_aside)} files were set aside: {said}"})
    return splits


def notices(data: SpeechConfig, corpus: Corpus, splits: Splits) -> list[str]:
    """What the report says of files that were not read, and of too few voices for A0's own gate."""
    found, own = [], bool(data.path)
    if own and corpus.other_files:
        suffixes = ", ".join(sorted(AUDIO_SUFFIXES))
        found.append(f"{corpus.other_files} other files were not read: what ends in {suffixes} is")
    if own and corpus.without_speaker:
        found.append(
            f"{corpus.without_speaker} audio files were not read: their place or name gives no speaker in the layout "
            f"{corpus.layout}"
        )
    train, test = len(splits.train_speakers), len(splits.eval_speakers)
    if gate_for(Config(data)) is GATE and (train < LEAST_TRAIN or test < LEAST_EVAL):
        said = f"{train} train and {test} eval speakers; {LEAST_TRAIN} and {LEAST_EVAL} are wanted, and "
        count, least = train + test, LEAST_TRAIN + LEAST_EVAL
        enough = f"of {count} speakers data.train={count - LEAST_EVAL} data.eval={LEAST_EVAL} would be enough"
        found.append(said + (enough if count >= least else f"{count} speakers are fewer than {least}"))
    return found


def check(config: Config) -> None:
    """ValueError on a corpus that is not there or too small, and on a codec that nobody knows."""
    workers(default=READERS)
    check_codec_kind(config.data.codec)
    check_speech(config.data)


def run(context: Context) -> Mapping[str, Estimate]:
    """Read every recording, set aside what cannot be used, and split the speakers of the others."""
    config: Config = context.config
    threads = workers(default=READERS)
    corpus = open_corpus(config.data, context.run, seed=context.seed, workers=threads)
    recordings, set_aside = looked_at(corpus.utterances, threads)
    if not recordings:
        raise ValueError(
            f"none of {len(set_aside)} files could be used; the first: {set_aside[0].path}: {set_aside[0].reason}"
        )
    splits = write_findings(context.run, config.data, corpus, recordings, set_aside)
    for text in notices(config.data, corpus, splits):
        context.run.append_log({"kind": "notice", "text": text})
    files = len(corpus.utterances) + corpus.without_speaker
    return {
        "split_leaks": exact(split_leaks(context.run.path / SPLITS, recordings), len(recordings), "recordings"),
        "train_speakers": exact(len(splits.train_speakers), len(splits.train_speakers), "speakers"),
        "eval_speakers": exact(len(splits.eval_speakers), len(splits.eval_speakers), "speakers"),
        "speakers_fitted_on": exact(fitted_on(recordings, splits), len(splits.train_speakers), "speakers"),
        "heldout_utterances": exact(len(splits.heldout_utt_ids), len(recordings), "recordings"),
        "usable_share": exact(len(recordings) / files, files, "files"),
        "set_aside": exact(len(set_aside), files, "files"),
        "other_files": exact(corpus.other_files, files + corpus.other_files, "files"),
        "without_speaker": exact(corpus.without_speaker, files, "files"),
        "hours": exact(_hours(recordings), len(recordings), "recordings"),
    }


PHASE = Phase(
    code="A0",
    name="corpus and splits",
    question="Are there enough voices, and does none of them stand on both sides?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    check=check,
    gate_for=gate_for,
    failure_means="A structure found here could be that of the voices it was fitted on.",
)
