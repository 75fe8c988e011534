"""Which latents are asked about: of a folder of recordings, a subset of LibriSpeech, or the built-in synthetic voices.

Every phase's config has the same `data`, since overrides given to the whole study are given to each of its phases; A0
opens the corpus and writes down what it found, and the later phases read that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from inscape.core.rundir import RunDir
from inscape.data.speech.corpus import LAYOUTS, Corpus, Utterance, open_speech
from inscape.data.speech.librispeech import CHECKSUMS, download_librispeech
from inscape.data.speech.splits import Splits, read_splits, split_speakers
from inscape.data.speech.synthetic_voices import MOST_SPEAKERS, synthesise_speech, voices
from inscape.extras import load_extra
from inscape.pretrained.codec import CODECS, open_codec
from inscape.user_paths import user_path

__all__ = [
    "CORPUS",
    "QUARANTINE",
    "SPEECH",
    "SPLITS",
    "UTTERANCES",
    "Recording",
    "SpeechConfig",
    "check_codec_kind",
    "check_speech",
    "open_corpus",
    "read_recordings",
    "read_splits_of",
    "workers",
]

# What A0 writes into its run.
CORPUS, UTTERANCES, QUARANTINE, SPLITS, SPEECH = (
    "corpus.json",
    "utterances.json",
    "quarantine.json",
    "splits",
    "speech",
)
AUTO = "auto"
MOST_WORKERS = 256
PACKAGES = {"soundfile": "reading audio", "soxr": "resampling audio", "pyarrow": "the tables of audio-structure"}


@dataclass(frozen=True)
class SpeechConfig:
    """The recordings, their split, and the codec whose latents are asked about.

    The plan's split is train=200 and eval=51 of 251 speakers, seed 42.
    """

    path: str = ""  # folder of recordings; empty: synthetic voices, which need no download
    layout: str = AUTO  # where a file's speaker stands: auto, librispeech, sub-folder, prefix
    download: str = ""  # subset of LibriSpeech that is fetched into `path` unless it is there, as train-clean-100
    speakers: int = 60  # synthetic voices, 85 at most; of a folder all speakers are taken
    utterances: int = 8  # of each synthetic voice
    train: float = 0.8  # speakers that things are fitted on: a number, or a share of them
    eval: float = 0.2  # speakers that things are tested on: a number, or a share of them
    heldout: float = 0.1  # share of the train speakers' utterances that nothing is fitted on
    seed: int = 42  # of the split
    codec: str = "log-mel"  # kind or kind:where, see inscape.pretrained.codec; A1 opens it

    def __post_init__(self) -> None:
        allowed = {
            "layout": (self.layout in (AUTO, *LAYOUTS), f"{AUTO}, {', '.join(LAYOUTS)}"),
            "download": (self.download in ("", *CHECKSUMS), f"{', '.join(CHECKSUMS)}, or nothing"),
            "speakers": (2 <= self.speakers <= MOST_SPEAKERS, f"2 to {MOST_SPEAKERS}"),
            "utterances": (1 <= self.utterances <= 1000, "1 to 1000"),
            "train": (_is_number_or_share(self.train), "a number of speakers from 1, or a share between 0 and 1"),
            "eval": (_is_number_or_share(self.eval), "a number of speakers from 1, or a share between 0 and 1"),
            "heldout": (0 <= self.heldout < 1, "0 to below 1"),
            "seed": (0 <= self.seed < 2**31, f"0 to {2**31 - 1}"),
        }
        for name, (holds, words) in allowed.items():
            if not holds:
                raise ValueError(f"data.{name}={getattr(self, name)!r} is out of range; allowed: {words}")
        if self.download and not self.path:
            raise ValueError(f"data.download={self.download} needs a folder to keep it in: data.path=FOLDER")


def workers(default: int) -> int:
    """How many threads or processes read, speak and extract: INSCAPE_WORKERS, else `default`.

    It is no part of a config, since results do not depend on it, and a run on more cores counts as any other.
    ValueError unless it is a number from 1 to MOST_WORKERS.
    """
    given = os.environ.get("INSCAPE_WORKERS", "").strip() or str(default)
    if not given.isdecimal() or not 1 <= int(given) <= MOST_WORKERS:
        raise ValueError(f"INSCAPE_WORKERS={given} is out of range; allowed: 1 to {MOST_WORKERS}")
    return int(given)


class Recording(NamedTuple):
    """A row of utterances.json: an utterance that can be used."""

    utterance_id: str
    speaker_id: str
    path: str  # absolute, or relative to A0's run where the run holds the recordings
    seconds: float
    sha256: str  # of its samples at 16 kHz, each rounded to 16 bits


def check_speech(data: SpeechConfig) -> None:
    """ValueError if what `data` names is not there, has too few speakers, or needs a package that is not installed."""
    for package, purpose in PACKAGES.items():
        load_extra(package, "audio", purpose)
    if data.download:
        return  # what is there can be known only after the transfer
    if data.path:
        utterances = _open_folder(data).utterances
    else:
        load_extra("espeakng_loader", "audio", "synthetic speech")
        if min(data.train, data.eval) >= 1 and data.train + data.eval > MOST_SPEAKERS:
            raise ValueError(
                f"data.train={data.train:g} and data.eval={data.eval:g} need {data.train + data.eval:g} speakers, and "
                f"there are {MOST_SPEAKERS} synthetic voices: give recordings, data.path=FOLDER, or fewer speakers"
            )
        utterances = [Utterance(v.speaker_id, v.speaker_id, Path(v.speaker_id)) for v in voices(data.speakers)]
    split_speakers(utterances, data.train, data.eval, seed=data.seed, heldout_share=data.heldout)


def check_codec_kind(codec: str) -> None:
    """ValueError if there is no codec of this kind; A1 opens it, and alone needs its weights."""
    if codec.partition(":")[0] not in CODECS:
        open_codec(codec)  # says which kinds there are


def open_corpus(data: SpeechConfig, run: RunDir, *, seed: int, workers: int) -> Corpus:
    """The corpus that `data` names; synthetic voices speak into run/speech, once. ValueError as `check_speech`."""
    if data.path:
        return _open_folder(data)
    folder = synthesise_speech(
        run.path / SPEECH, speakers=data.speakers, utterances=data.utterances, seed=seed, workers=workers
    )
    return open_speech(folder, layout="sub-folder")


def read_recordings(run: RunDir) -> list[Recording]:
    """The recordings of a run of A0, with paths that can be opened. ValueError if the file is damaged."""
    rows = run.read_json(UTTERANCES)
    try:
        found = [Recording(*row) for row in rows]
        return [row._replace(path=str(run.path / row.path)) for row in found]
    except TypeError:
        raise ValueError(f"{run.path / UTTERANCES} is missing or damaged: run A0 again") from None


def read_splits_of(run: RunDir) -> Splits:
    """The splits of a run of A0, checked against its recordings. ValueError if they do not fit together."""
    return read_splits(
        run.path / SPLITS, [Utterance(r.utterance_id, r.speaker_id, Path(r.path)) for r in read_recordings(run)]
    )


def _open_folder(data: SpeechConfig) -> Corpus:
    folder = user_path(data.path)
    if data.download:
        folder = download_librispeech(folder, data.download)
    return open_speech(folder, layout=None if data.layout == AUTO else data.layout)


def _is_number_or_share(given: float) -> bool:
    return 0 < given < 1 or (given >= 1 and float(given).is_integer())
