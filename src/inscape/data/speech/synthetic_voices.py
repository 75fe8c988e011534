"""A multi-speaker corpus that needs no download: sentences of the scene grammar, said by the voices of espeak-ng.

A speaker is a voice variant of espeak-ng, with a rate and a pitch of its own, and no variant is two speakers: the same
one in another accent would be one voice on two sides of a split. VOICES are the variants
that are distinct: of all 104, one of the two nearest was dropped until every two differed by 0.5, root mean square over
the mean and the spread of 24 log-spectral bands and ten times the logarithm of the pitch. What is learned about
such speech is learned about a formant synthesiser: good for finding faults in an instrument, no evidence about people.

espeak-ng keeps its state in process-wide C variables, so each speaker is said by a process of its own
(`espeak_process.py`); this module never loads the library, and is safe to call from any thread.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inscape.core.rundir import write_json_atomically
from inscape.data.scenes import render, sample
from inscape.extras import load_extra
from inscape.user_paths import user_path

__all__ = ["MARKER", "MOST_SPEAKERS", "VOICES", "Voice", "synthesise_speech", "voices"]

MARKER = "synthetic_voices.json"
FORMAT = 1  # raise it when the same seed gives other speech
ACCENT = "en-us"
VOICES = (  # those that sound like a person first, robots last: a small corpus has none of them
    *(
        "Alicia",
        "m3",
        "f2",
        "Gene",
        "Annie",
        "Reed",
        "aunty",
        "Denis",
        "Andrea",
        "klatt",
        "f3",
        "boris",
        "belinda",
        "m5",
    ),
    *("Lee", "f1", "Alex", "caleb", "linda", "paul", "m7", "steph3", "Jacky", "victor", "f5", "david", "Mario", "zac"),
    *("grandma", "max", "Andy", "shelby", "Nguyen", "edward", "anika", "grandpa", "Hugo", "m4", "travis", "Gene2"),
    *("sandro", "m6", "marcelo", "Henrique", "quincy", "m8", "Marco", "norbert", "pablo", "iven", "rob", "michel"),
    *("Michael", "ian", "antonio", "klatt2", "gustave", "john", "ed", "pedro", "Mike", "edward2", "iven4", "klatt4"),
    *("RicishayMax", "kaukovalta", "klatt3", "announcer", "croak", "Mr serious", "Storm", "RicishayMax2", "whisperf"),
    *("AnxiousAndy", "whisper", "Tweaky", "UniRobot", "Demonic", "robosoft", "robosoft3", "robosoft4", "robosoft5"),
    *("robosoft6", "robosoft7", "robosoft8"),
)
MOST_SPEAKERS = len(VOICES)
WORDS = (20, 45)  # of an utterance; about 6 to 15 seconds, as in read speech corpora
RATES, PITCHES = (150, 190), (40, 60)  # words a minute; per cent of espeak-ng's pitch range, 50 is the voice's own


class Voice(NamedTuple):
    """A speaker: its id (also its folder), espeak-ng's name for it, words a minute, and pitch in per cent."""

    speaker_id: str
    name: str
    rate: int
    pitch: int


def voices(count: int, *, seed: int = 0) -> tuple[Voice, ...]:
    """The first `count` speakers, in the order of VOICES; ValueError beyond the last."""
    if not 2 <= count <= MOST_SPEAKERS:
        raise ValueError(f"{count} synthetic speakers were asked for; allowed: 2 to {MOST_SPEAKERS}")
    found = []
    for i, variant in enumerate(VOICES[:count]):
        draw = np.random.default_rng([seed, i])
        rate, pitch = (int(draw.integers(low, high + 1)) for low, high in (RATES, PITCHES))
        found.append(Voice(f"{ACCENT}.{variant.replace(' ', '')}", f"{ACCENT}+{variant}", rate, pitch))
    return tuple(found)


def synthesise_speech(
    folder: Path | str,
    *,
    speakers: int = 60,
    utterances: int = 8,
    seed: int = 0,
    suffix: str = ".flac",
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write folder/<speaker>/<speaker>-<number>.flac, 22,050 Hz, 16 bits, mono, and return `folder`.

    Deterministic in (seed, speakers, utterances), bit for bit for one version of espeak-ng; more speakers or more
    utterances leave the others as they are. `folder` appears when all is written: a marker file in it says what it
    holds, and a second call with the same arguments returns at once. on_progress(done, total) counts speakers.

    ValueError if `folder` holds something else, on numbers that make no sense, where the extra "audio" is missing, or
    where espeak-ng fails.
    """
    if utterances < 1 or workers < 1 or suffix not in (".flac", ".wav"):
        raise ValueError(
            f"utterances={utterances}, workers={workers}, suffix={suffix!r}: utterances and workers count from 1, and "
            "the suffix is .flac or .wav"
        )
    chosen = voices(speakers, seed=seed)
    folder = user_path(folder)
    holds = {"format": FORMAT, "seed": seed, "speakers": speakers, "utterances": utterances, "suffix": suffix}
    if folder.exists():
        _check_marker(folder, holds)
        return folder
    for package in ("soundfile", "espeakng_loader"):
        load_extra(package, "audio", "synthetic speech")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(_write_speaker, partial, i, v, utterances, seed, suffix) for i, v in enumerate(chosen)]
        for done, job in enumerate(jobs, start=1):
            job.result()
            if on_progress:
                on_progress(done, speakers)
    write_json_atomically(partial / MARKER, holds)
    partial.rename(folder)
    return folder


def _check_marker(folder: Path, holds: dict) -> None:
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != holds:
        raise ValueError(
            f"{folder} exists and is not this synthetic corpus ({found}): give another folder or remove it"
        )


def _write_speaker(root: Path, index: int, voice: Voice, utterances: int, seed: int, suffix: str) -> None:
    soundfile = load_extra("soundfile", "audio", "synthetic speech")
    folder = root / voice.speaker_id
    folder.mkdir()
    texts = [_text(np.random.default_rng([seed, index, 1 + k])) for k in range(utterances)]
    rate, spoken = _speak(voice, texts, seed)
    for k, samples_S in enumerate(spoken):
        soundfile.write(folder / f"{voice.speaker_id}-{k:04d}{suffix}", samples_S, rate, subtype="PCM_16")


def _text(draw: np.random.Generator) -> str:
    """Sentences of the scene grammar until WORDS are reached."""
    target, sentences, words = int(draw.integers(*WORDS)), [], 0
    while words < target:
        sentences.append(render(sample(draw), draw))
        words += len(sentences[-1].split())
    return ". ".join(sentences) + "."


def _speak(voice: Voice, texts: list[str], seed: int) -> tuple[int, list[np.ndarray]]:
    """Sample rate and int16 samples of each text. ValueError with espeak-ng's last word if its process fails."""
    loader = load_extra("espeakng_loader", "audio", "synthetic speech")
    job = {"library": loader.get_library_path(), "data": loader.get_data_path(), "voice": voice.name, "seed": seed}
    job |= {"rate": voice.rate, "pitch": voice.pitch, "sentences": texts}
    program = Path(__file__).with_name("espeak_process.py")
    done = subprocess.run([sys.executable, "-I", "-S", program], input=json.dumps(job).encode(), capture_output=True)
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ValueError(f"espeak-ng failed for the voice {voice.name}: {last}")
    rate, *_ = struct.unpack_from("=q", done.stdout)
    return rate, list(_samples(done.stdout))


def _samples(packed: bytes) -> Iterator[np.ndarray]:
    at = 8
    while at < len(packed):
        (size,) = struct.unpack_from("=q", packed, at)
        yield np.frombuffer(packed, np.int16, size // 2, at + 8)
        at += 8 + size
