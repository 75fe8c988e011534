"""What is heard: clips of sound as features of a frozen audio encoder, with captions, by split.

Three sources: the built-in sound world, which needs nothing; a folder with a sub-folder for each class (as ESC-50); a
folder of audio with captions in CSV files (as AudioCaps). The first phase reads the sounds, sets broken files aside,
lists missing ones, counts what is cut, looks for leaks between the splits, and keeps features in its run with a digest
of all of it; every later phase reads those.

Every phase's config has the same `data`, since overrides given to the whole study are given to each of its phases.

Legend: N clips, B batch, T frames, F width of the encoder's features, S samples.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inscape.core.rundir import RunDir
from inscape.data.epochs import epoch_order
from inscape.data.sounds.leaks import audit_leaks
from inscape.data.sounds.manifests import Manifest, SoundClip, load_clips, read_audiocaps, read_classes
from inscape.data.sounds.synthesis import synthesise
from inscape.data.sounds.world import SoundScene, captions, scenes
from inscape.extras import load_extra
from inscape.pretrained.audio_encoders import AUDIO_ENCODERS, check_name, open_audio_encoder
from inscape.studies.audio_fusion.kept_data import DATA, describe_split
from inscape.studies.audio_fusion.kept_encoder import KeptEncoder, figures_of, keep_encoder

if TYPE_CHECKING:
    from inscape.pretrained.codec import AudioCodec

__all__ = [
    "CLIPS",
    "LEAKS",
    "SPLITS",
    "SoundConfig",
    "Sounds",
    "batch_of",
    "check_sounds",
    "clips_of",
    "features_of_silence",
    "open_encoder",
    "open_sounds",
    "others",
    "prepare_sounds",
    "statistics_of",
]

SPLITS = ("train", "validation", "held_out")
CLIPS, LEAKS, FEATURES, SILENCE = "clips_{}.json", "leaks.json", "features_{}.npy", "features_silence.npy"
QUARANTINE = "quarantine.json"
AT_ONCE = 64  # clips that are in memory as waveforms
MEASURED = 2000  # clips whose frames give the statistics
WATCHED, WATCHED_OF_FILES = 64, 256  # validation clips of the built-in world; most of them of files


@dataclass(frozen=True)
class SoundConfig:
    """The clips, their split, and the encoder that hears them."""

    path: str = (
        ""  # folder of sounds: a sub-folder for each class, or audio named in `captions`; empty: the built-in world
    )
    captions: str = ""  # CSV as AudioCaps': audiocap_id, youtube_id, start_time, caption, of the training clips
    held_out_captions: str = ""  # the same of the held-out clips
    train_folds: tuple[int, ...] = (1, 2, 3)  # of a folder of classes: the first digit of a file's name
    held_out_folds: tuple[int, ...] = (4,)
    encoder: str = "log-mel:25"  # kind or kind:where, see inscape.pretrained.audio_encoders
    model: str = "own"  # the frozen model that hears: own | smollm2 | tiny | llava:WHERE | a Hugging Face id | a folder
    seconds: float = 4.0  # clips are cut, or filled up with silence that is masked, to this length
    train: int = 4000  # most training clips; of the built-in world as many as are made
    held_out: int = 500  # most held-out clips

    def __post_init__(self) -> None:
        allowed = {
            "seconds": (0.1 <= self.seconds <= 60, "0.1 to 60"),
            "train": (8 <= self.train <= 10**7, "8 to 10000000"),
            "held_out": (4 <= self.held_out <= 10**6, "4 to 1000000"),
            "encoder": (self.encoder.partition(":")[0] in AUDIO_ENCODERS, ", ".join(AUDIO_ENCODERS)),
        }
        for name, (holds, words) in allowed.items():
            if not holds:
                raise ValueError(f"data.{name}={getattr(self, name)!r} is out of range; allowed: {words}")
        if bool(self.captions) != bool(self.held_out_captions):
            raise ValueError(
                "data.captions and data.held_out_captions belong together: give a CSV of captions for each, or neither"
            )
        if self.captions and not self.path:
            raise ValueError("data.captions names captions without sounds: give their folder with data.path=FOLDER")
        if set(self.train_folds) & set(self.held_out_folds):
            raise ValueError(
                f"data.train_folds={self.train_folds} and data.held_out_folds={self.held_out_folds} share a fold: "
                "nothing may be trained on that is tested on"
            )


class Sounds(NamedTuple):
    """The clips of one split as an encoder hears them, and what is said of them."""

    features_NTF: np.ndarray  # float16, in a file; frames beyond a clip's own are 0
    frames_N: np.ndarray  # how many frames of each clip are its own
    captions: list[tuple[str, ...]]  # each clip's, the canonical one first
    labels: list[str]  # the class of each clip; empty where there are none
    is_world: bool  # captions are of the built-in world, and can be parsed
    sources: Sequence[str] = ()  # the recording that each clip was cut from; none of clips that are made here

    @property
    def size(self) -> int:
        """Clips."""
        return len(self.captions)

    @property
    def drawn(self) -> dict[str, Any]:
        """What intervals resample, as `groups` and `unit`: clips of one recording are drawn together."""
        return {"groups": self.sources, "unit": "recordings"} if self.sources else {"groups": None, "unit": "clips"}

    def first(self, count: int) -> Sounds:
        """The first clips."""
        part = slice(0, count)
        return Sounds(
            self.features_NTF[part],
            self.frames_N[part],
            self.captions[part],
            self.labels[part],
            self.is_world,
            self.sources[part],
        )


def check_sounds(data: SoundConfig) -> None:
    """ValueError if what `data` names is not there, or needs a package that is not installed."""
    if data.encoder.partition(":")[0] == "log-mel":
        open_audio_encoder(data.encoder)  # the others need their weights
    if not data.path:
        return
    for package in ("soundfile", "soxr"):
        load_extra(package, "audio", "reading audio")
    for split in ("train", "held_out"):
        _listed(data, split)


def clips_of(data: SoundConfig, split: str) -> int:
    """How many clips a split has, as far as can be told without reading them."""
    return len(_listed(data, split)) if data.path else data.held_out if split == "held_out" else data.train


def open_encoder(data: SoundConfig, device: str) -> AudioCodec:
    """The encoder that the config names. ValueError if it is not to be had, or another one was opened."""
    encoder = open_audio_encoder(data.encoder, device=device)
    check_name(encoder.name, data.encoder)
    return encoder


def prepare_sounds(data: SoundConfig, run: RunDir, encoder: AudioCodec, *, seed: int) -> dict[str, Any]:
    """Features and captions of every split into `run`; what is whole already is left.

    Returns counts for the report: clips that were `set_aside`, missing files among them; that are `heard`; that were
    `cut` to data.seconds.

    ValueError in one line if a split holds no usable clip, or the encoder does not give what it says.
    """
    kept = figures_of(encoder)
    silence_TF = encoder.encode([np.zeros(round(data.seconds * encoder.sample_rate), dtype=np.float32)])[0]
    if silence_TF.shape != (kept.frames(data.seconds), kept.dimension):
        raise ValueError(_of_another_size(kept, silence_TF, data.seconds))
    keep_encoder(run, kept)
    np.save(run.path / SILENCE, silence_TF.astype(np.float16))
    listed = {split: _listed(data, split) for split in SPLITS} if data.path else {}
    if data.path:
        report = audit_leaks(listed["train"] + listed["validation"], listed["held_out"])
        run.write_json(LEAKS, {"leaks": report.leaks, "lines": report.lines, "caption_overlap": report.caption_overlap})
    else:
        run.write_json(LEAKS, {"leaks": _shared_scenes(data, seed), "lines": []})
    for split in SPLITS:
        if (run.path / CLIPS.format(split)).is_file():
            continue
        set_aside: list[dict[str, str]] = []
        source = (
            _from_files(listed[split], data, encoder, set_aside) if data.path else _of_world(data, split, seed, encoder)
        )
        _keep_split(run, split, source, data, encoder, set_aside)
    broken = [*_missing(data), *_broken(run)]
    run.write_json(QUARANTINE, broken)
    found = {
        split: describe_split(run.read_json(CLIPS.format(split)), run.path / FEATURES.format(split)) for split in SPLITS
    }
    run.write_json(DATA, found)
    heard, cut = (sum(each[name] for each in found.values()) for name in ("clips", "cut"))
    if cut:
        print(f"{cut} of {heard} clips are longer than data.seconds={data.seconds:g} and were cut", file=sys.stderr)
    return {"set_aside": len(broken), "heard": heard, "cut": cut}


def open_sounds(run: RunDir, split: str) -> Sounds:
    """The clips of a split that the first phase kept in `run`. ValueError if they are missing or damaged."""
    kept = run.read_json(CLIPS.format(split))
    try:
        if kept and "sources" not in kept:
            raise ValueError("it does not say which recordings its clips were cut from")
        features_NTF = np.load(run.path / FEATURES.format(split), mmap_mode="r", allow_pickle=False)
        found = Sounds(
            features_NTF,
            np.array(kept["frames"], dtype=np.int64),
            [tuple(each) for each in kept["captions"]],
            list(kept["labels"]),
            bool(kept["is_world"]),
            list(kept["sources"]),
        )
        counts = {len(each) for each in (found.features_NTF, found.frames_N, found.captions)}
        if len(counts) > 1 or not found.size or len(found.sources) not in (0, found.size):
            raise ValueError("clips and features differ in number")
    except (OSError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{run.path} holds no whole split {split} ({error}): run the phase identity again") from None
    return found


def features_of_silence(run: RunDir) -> Tensor:
    """What the encoder makes of a silent clip, (T, F)."""
    return torch.from_numpy(np.load(run.path / SILENCE, allow_pickle=False).astype(np.float32))


def batch_of(sounds: Sounds, rows: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
    """Features (B, T, F) of these clips, float32, and which of their frames are theirs, (B, T)."""
    rows = np.asarray(rows)
    features_BTF = torch.from_numpy(np.asarray(sounds.features_NTF[rows], dtype=np.float32))
    mask_BT = torch.arange(features_BTF.shape[1]) < torch.from_numpy(sounds.frames_N[rows])[:, None]
    return features_BTF, mask_BT


def others(sounds: Sounds, turn: int) -> list[int]:
    """For each clip another one with another caption: `turn` places on, or the first after that which differs.

    Where all captions are alike there is none, and the clip `turn` places on is taken.
    """
    count = sounds.size
    said = [frozenset(each) for each in sounds.captions]
    found = []
    for i in range(count):
        places = [(i + turn + step) % count for step in range(count)]
        found.append(next((j for j in places if said[j] != said[i]), places[0]))
    return found


def statistics_of(sounds: Sounds) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over the first clips' frames, (F); a deviation is never 0."""
    features_BTF, mask_BT = batch_of(sounds, np.arange(min(sounds.size, MEASURED)))
    frames_MF = features_BTF[mask_BT].double()
    return frames_MF.mean(0).float(), frames_MF.std(0).clamp_min(1e-4).float()


class _Heard(NamedTuple):
    """A few clips, encoded."""

    features: list[np.ndarray]
    captions: list[tuple[str, ...]]
    labels: list[str]
    sources: Sequence[str] = ()
    cut: int = 0  # how many of them were longer


def _of_world(data: SoundConfig, split: str, seed: int, encoder: AudioCodec) -> Iterator[_Heard]:
    drawn = _scenes(data, split, seed)
    for at in range(0, len(drawn), AT_ONCE):
        some = drawn[at : at + AT_ONCE]
        waves = [
            synthesise(scene, _clip_seed(seed, split, at + i), encoder.sample_rate, data.seconds)
            for i, scene in enumerate(some)
        ]
        yield _Heard(encoder.encode(waves), [captions(scene) for scene in some], [""] * len(some))


def _scenes(data: SoundConfig, split: str, seed: int) -> list[SoundScene]:
    """A scene for each clip: distinct ones until all have been drawn, then the same again, which sound different."""
    count = {"train": data.train, "validation": WATCHED, "held_out": data.held_out}[split]
    whole = scenes(split, None, seed)
    return [whole[i % len(whole)] for i in range(count)]


def _clip_seed(seed: int, split: str, index: int) -> int:
    return (seed * len(SPLITS) + SPLITS.index(split)) * 10**7 + index


def _shared_scenes(data: SoundConfig, seed: int) -> int:
    """How many held-out scenes were trained on; 0 by how the world is split, and looked at all the same."""
    trained = {*_scenes(data, "train", seed), *_scenes(data, "validation", seed)}
    return len(trained & set(_scenes(data, "held_out", seed)))


def _listed(data: SoundConfig, split: str) -> list[SoundClip]:
    """The clips of files of a split: one in sixteen of the training clips, up to a number, is watched instead."""
    found = list(_manifest(data, split).clips)
    # Folders of classes come in the order of their classes: a part of them has to hold some of each.
    found = [found[i] for i in epoch_order(0, 0, len(found))]
    if split == "held_out":
        return found[: data.held_out]
    watched = range(0, len(found), 16)[:WATCHED_OF_FILES]
    return [c for i, c in enumerate(found) if (i in watched) == (split == "validation")][: data.train]


def _manifest(data: SoundConfig, split: str) -> Manifest:
    if data.captions:
        return read_audiocaps(data.held_out_captions if split == "held_out" else data.captions, data.path)
    return read_classes(data.path, folds=data.held_out_folds if split == "held_out" else data.train_folds)


def _missing(data: SoundConfig) -> list[dict[str, str]]:
    """Clips that a table of captions names and whose file is not there."""
    ids = [each for split in ("train", "held_out") for each in _manifest(data, split).missing] if data.captions else []
    return [{"path": str(Path(data.path) / each), "reason": "does not exist"} for each in ids]


def _from_files(
    clips: Sequence[SoundClip], data: SoundConfig, encoder: AudioCodec, set_aside: list[dict[str, str]]
) -> Iterator[_Heard]:
    for at in range(0, len(clips), AT_ONCE):
        loaded = load_clips(clips[at : at + AT_ONCE], encoder.sample_rate, data.seconds)
        set_aside += [{"path": each.path, "reason": each.reason} for each in loaded.quarantined]
        if loaded.clips:
            waves = [wave_S[:length] for wave_S, length in zip(loaded.waveform_NS, loaded.length_N, strict=True)]
            captions, labels = [clip.captions for clip in loaded.clips], [clip.label for clip in loaded.clips]
            sources = [clip.source or clip.clip_id for clip in loaded.clips]
            yield _Heard(encoder.encode(waves), captions, labels, sources, loaded.cut)


def _keep_split(
    run: RunDir,
    split: str,
    source: Iterator[_Heard],
    data: SoundConfig,
    encoder: AudioCodec,
    set_aside: Sequence[dict[str, str]],
) -> None:
    """Features first, the list of clips last: a split without its list is not whole."""
    kept = figures_of(encoder)
    most = kept.frames(data.seconds)
    rows, frames, captions, labels, sources = [], [], [], [], []
    cut = 0
    for heard in source:
        block_BTF = np.zeros((len(heard.features), most, encoder.dimension), dtype=np.float16)
        for i, latent_TF in enumerate(heard.features):
            if len(latent_TF) > most:
                raise ValueError(_of_another_size(kept, latent_TF, data.seconds))
            block_BTF[i, : len(latent_TF)] = latent_TF
            frames.append(len(latent_TF))
        rows.append(block_BTF)
        captions += heard.captions
        labels += heard.labels
        sources += heard.sources
        cut += heard.cut
    if not captions:
        run.write_json(QUARANTINE, [*_broken(run), *set_aside])
        first = f", the first because: {set_aside[0]['reason']}" if set_aside else ""
        raise ValueError(
            f"no usable clip is in the split {split} of {data.path}: {len(set_aside)} files were set aside{first}; "
            f"mend them or give others (all are listed in {run.path / QUARANTINE})"
        )
    np.save(run.path / FEATURES.format(split), np.concatenate(rows))
    run.write_json(
        CLIPS.format(split),
        {
            "frames": frames,
            "captions": captions,
            "labels": labels,
            "is_world": not data.path,
            "sources": sources,
            "set_aside": list(set_aside),
            "cut": cut,
        },
    )


def _broken(run: RunDir) -> list[dict[str, str]]:
    """What was set aside of the splits that are whole."""
    return [each for split in SPLITS for each in (run.read_json(CLIPS.format(split)) or {}).get("set_aside", ())]


def _of_another_size(kept: KeptEncoder, latent_TF: np.ndarray, seconds: float) -> str:
    return (
        f"the audio encoder {kept.name} gave features of shape {latent_TF.shape} for {seconds:g} s, and by its own "
        f"figures they have at most {(kept.frames(seconds), kept.dimension)}: its frame rate or width is not what it "
        "says; use another encoder"
    )
