"""A folder of recordings as utterances with speakers, whatever its layout.

Three layouts are known, and told apart by the files themselves:

    librispeech   .../<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac, at any depth, any number of subsets
    sub-folder    <speaker>/.../<anything>.wav
    prefix        <speaker>-<anything>.ogg or <speaker>_<anything>.ogg

No file is opened here: one that turns out to be no audio is found, and set aside, when it is read (`audio_files.py`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from inscape.data.speech.audio_files import AUDIO_SUFFIXES
from inscape.user_paths import user_path

__all__ = ["LAYOUTS", "Corpus", "Utterance", "open_speech", "printable"]

LAYOUTS = ("librispeech", "sub-folder", "prefix")
_LIBRISPEECH_NAME = re.compile(r"(\d+)-(\d+)-\d+")


class Utterance(NamedTuple):
    """One recording of one speaker. Ids are unique within a corpus and are plain printable text."""

    utterance_id: str
    speaker_id: str
    path: Path


class Corpus(NamedTuple):
    """The utterances of a folder in the order of their ids, and what else lay there."""

    root: Path
    layout: str
    utterances: tuple[Utterance, ...]
    without_speaker: int  # audio files whose place or name gives no speaker: left out
    other_files: int  # files that are no audio by their suffix: transcripts, notes

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers' ids, sorted, each once."""
        return tuple(sorted({u.speaker_id for u in self.utterances}))


def open_speech(path: Path | str, *, layout: str | None = None) -> Corpus:
    """The corpus in folder `path`.

    layout: one of LAYOUTS, or None to take the first that finds a speaker for half of the audio files and two speakers
    or more. ValueError in one line if there is no folder, no audio, no speaker, or one speaker only.
    """
    root = user_path(path)
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; allowed: {', '.join(LAYOUTS)}, or None to detect it")
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"speech is read from a folder of audio files, and {path} {state}")
    audio, others = _files_under(root)
    if not audio:
        raise ValueError(f"{path} holds no audio file ({', '.join(sorted(AUDIO_SUFFIXES))}), and {others} other files")
    for name in (layout,) if layout else LAYOUTS:
        speaker_of = _SPEAKER_OF[name](audio)
        found = [(file, speaker) for file in audio if (speaker := speaker_of(file))]
        if len({speaker for _, speaker in found}) > 1 and (layout or 2 * len(found) >= len(audio)):
            return Corpus(root, name, _utterances(root, name, found), len(audio) - len(found), others)
    raise ValueError(
        f"{path} holds {len(audio)} audio files, and fewer than two speakers can be told from them"
        + (f" in the layout {layout}" if layout else "")
        + ": give each speaker a sub-folder, or begin file names with the speaker and - or _"
    )


def printable(text: str) -> str:
    """`text` with each character that is not printable or not Unicode as an escape: fit for a line of a file."""
    whole = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole)


def _files_under(root: Path) -> tuple[list[Path], int]:
    """Audio files relative to `root`, sorted, and the number of other files; hidden ones count for nothing."""
    audio, others = [], 0
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            if Path(name).suffix.lower() in AUDIO_SUFFIXES:
                audio.append((Path(folder) / name).relative_to(root))
            else:
                others += 1
    return sorted(audio), others


def _utterances(root: Path, layout: str, found: Sequence[tuple[Path, str]]) -> tuple[Utterance, ...]:
    """Ids are file names without suffix (librispeech), else paths without suffix; where two agree, the whole path."""
    short = [file.stem if layout == "librispeech" else file.with_suffix("").as_posix() for file, _ in found]
    count = Counter(short)
    rows = [
        Utterance(printable(name if count[name] == 1 else file.as_posix()), printable(speaker), root / file)
        for name, (file, speaker) in zip(short, found, strict=True)
    ]
    return tuple(sorted(rows))


def _librispeech(_: Sequence[Path]) -> Callable[[Path], str]:
    def speaker_of(file: Path) -> str:
        match = _LIBRISPEECH_NAME.fullmatch(file.stem)
        return match[1] if match and file.parts[-3:-1] == match.groups() else ""

    return speaker_of


def _sub_folder(audio: Sequence[Path]) -> Callable[[Path], str]:
    """The first folder in which the files differ: folders that hold all of them ("wav48/") are no speakers."""
    folders = [file.parts[:-1] for file in audio if len(file.parts) > 1]
    levels = enumerate(zip(*folders, strict=False))
    depth = next((level for level, names in levels if len(set(names)) > 1), min(map(len, folders), default=0))
    return lambda file: file.parts[depth] if len(file.parts) > depth + 1 else ""


def _prefix(_: Sequence[Path]) -> Callable[[Path], str]:
    def speaker_of(file: Path) -> str:
        before, mark, _ = file.stem.replace("_", "-").partition("-")
        return before if mark else ""

    return speaker_of


_SPEAKER_OF = {"librispeech": _librispeech, "sub-folder": _sub_folder, "prefix": _prefix}
