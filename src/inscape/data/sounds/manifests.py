"""Recordings with captions from two common kinds of folder, checked before anything is trained on them.

    AudioCaps   a CSV with the columns audiocap_id, youtube_id, start_time, caption, and a folder of audio files named
                <youtube_id> or <youtube_id>_<start_time>; rows of one excerpt are the references of one clip
    classes     one sub-folder a class, as ESC-50 sorted by class; captions come from templates. File names that begin
                "<fold>-<source>-", as ESC's do, give the clip's fold and the recording that it was cut from

What is wrong with a table is one line that names its row (the header is row 1) and column. A clip whose file is missing
is listed, and a file that is no audio is set aside when it is read (`load_clips`): neither stops a run.

Sources: Kim et al. 2019, "AudioCaps: Generating Captions for Audios in The Wild"; Piczak 2015, "ESC: Dataset for
Environmental Sound Classification".
Legend: N clips, S samples.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inscape.data.speech.audio_files import AUDIO_SUFFIXES, Quarantined, read_or_quarantine
from inscape.data.speech.corpus import printable
from inscape.user_paths import user_path

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "AUDIOCAPS_COLUMNS",
    "CLASS_TEMPLATES",
    "LoadedClips",
    "Manifest",
    "SoundClip",
    "class_captions",
    "load_clips",
    "read_audiocaps",
    "read_classes",
]

AUDIOCAPS_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
CLASS_TEMPLATES = (  # without an article, which "rain" and "sea waves" would not bear
    "the sound of {}",
    "{} can be heard",
    "this is {}",
    "a recording of {}",
    "one hears {}",
)
_FOLD_AND_SOURCE = re.compile(r"(\d)-(?:(\w+)-)?")


class SoundClip(NamedTuple):
    """One clip and all that is said about it. Ids are unique within a manifest and are plain printable text."""

    clip_id: str
    path: Path | None  # None: made, or not on this disk
    captions: tuple[str, ...]
    label: str = ""  # its class, where it has one
    split: str = ""  # its fold, or the name of its table
    source: str = ""  # the recording it was cut from: two clips of one source must not stand on two sides


class Manifest(NamedTuple):
    """The clips in the order of the table, or of their ids; and the ids of those whose file is not there."""

    clips: tuple[SoundClip, ...]
    missing: tuple[str, ...] = ()


class LoadedClips(NamedTuple):
    """The clips that could be read, their waveforms at one length, and the files set aside."""

    clips: tuple[SoundClip, ...]
    waveform_NS: Float[np.ndarray, "N S"]  # float32, zeros after the end of a shorter clip
    length_N: Int[np.ndarray, " N"]  # samples before that end
    quarantined: tuple[Quarantined, ...]
    cut: int = 0  # how many of the clips were longer, by more than a hundredth


def read_audiocaps(table: Path | str, folder: Path | str | None) -> Manifest:
    """The clips of an AudioCaps table whose files lie in `folder`, at any depth; folder=None reads captions alone.

    A clip is an excerpt: (youtube_id, start_time), with the captions of all its rows; its split is the table's name. A
    file that bears the youtube_id alone serves a video with one excerpt. ValueError, one line: no such table, not
    UTF-8, NUL bytes, no CSV, a column missing, a row of another length, an empty field, a start_time that is no number,
    an audiocap_id that stands twice, a table without rows, no such folder, and a folder that holds none of the clips.
    """
    table = user_path(table)
    said: dict[tuple[str, str], list[str]] = {}
    for row in _rows(table):
        said.setdefault((row["youtube_id"], row["start_time"]), []).append(row["caption"])
    files = None if folder is None else _audio_by_stem(Path(folder))
    excerpts: dict[str, int] = {}
    for video, _ in said:
        excerpts[video] = excerpts.get(video, 0) + 1
    clips, missing = [], []
    for (video, start), captions in said.items():
        names = [f"{video}_{start}", *([video] if excerpts[video] == 1 else [])]
        path = next((files[name] for name in names if name in files), None) if files is not None else None
        clip_id = printable(names[0])
        if files is not None and path is None:
            missing.append(clip_id)
        else:
            clips.append(SoundClip(clip_id, path, tuple(captions), split=table.stem, source=printable(video)))
    if not clips:
        raise ValueError(
            f"{folder} holds none of the {len(missing)} clips of {table}: files are named <youtube_id> or "
            f"<youtube_id>_<start_time>, such as {missing[0]}.wav"
        )
    return Manifest(tuple(clips), tuple(missing))


def read_classes(folder: Path | str, folds: Collection[int] | None = None) -> Manifest:
    """The clips of a folder of class folders, with `class_captions`; only those of `folds`, where given.

    label: the class; split: the first digit of a name such as 3-68630-C.ogg; source: its second part. ValueError, one
    line: no such folder, fewer than two classes, a class without audio, folds asked for of a file whose name has none,
    and folds that no file has.
    """
    root = _folder(folder)
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise ValueError(
            f"{folder} holds {len(names)} sub-folders; sounds are read from one sub-folder a class, of two"
        )
    clips = []
    for name in names:
        paths = list(_audio_under(root / name))
        if not paths:
            raise ValueError(f"class folder {root / name} holds no audio file ({', '.join(sorted(AUDIO_SUFFIXES))})")
        label = printable(name.replace("_", " ").strip()).lower()
        for path in paths:
            marks = _FOLD_AND_SOURCE.match(path.name)
            if folds is not None and not marks:
                raise ValueError(f"{path} has no fold: with folds, names begin with a digit and -, as 1-100032-A.ogg")
            fold, source = (marks[1], marks[2] or "") if marks else ("", "")
            clip_id = printable(path.relative_to(root).as_posix())
            clips.append(SoundClip(clip_id, path, class_captions(label), label, fold, printable(source)))
    found = sorted({clip.split for clip in clips})
    wanted = found if folds is None else [str(fold) for fold in folds]
    if not wanted or set(wanted) - set(found):
        given = ", ".join(sorted(set(wanted) - set(found))) or "none"
        raise ValueError(f"folds asked for of {folder}: {given}; it holds: {', '.join(found) or 'none'}")
    return Manifest(tuple(clip for clip in clips if clip.split in wanted))


def class_captions(label: str) -> tuple[str, ...]:
    """What can be said of a clip of which only the class is known."""
    return tuple(template.format(label) for template in CLASS_TEMPLATES)


def load_clips(clips: Sequence[SoundClip], rate: int, seconds: float) -> LoadedClips:
    """The clips as mono float32 at `rate` Hz, cut after `seconds` or filled with zeros to them.

    What cannot be read is set aside with its reason, and the rest is returned, were it nothing. ValueError only where
    `rate` or `seconds` makes no sense or a package is missing.
    """
    if not (rate > 0 and 0 < seconds < 3600):
        raise ValueError(f"rate is {rate} Hz and seconds {seconds}; allowed: a rate above 0, and above 0 to 3600 s")
    samples = round(rate * seconds)
    kept, waves, lengths, quarantined = [], [], [], []
    cut = 0
    for clip in clips:
        if clip.path is None:
            quarantined.append(Quarantined(clip.clip_id, "has no file"))
            continue
        read = read_or_quarantine(clip.path, rate)
        if isinstance(read, Quarantined):
            quarantined.append(read)
            continue
        wave_S = np.zeros(samples, np.float32)
        wave_S[: len(read)] = read[:samples]
        kept.append(clip)
        waves.append(wave_S)
        lengths.append(min(len(read), samples))
        cut += len(read) > 1.01 * samples
    waveform_NS = np.stack(waves) if waves else np.zeros((0, samples), np.float32)
    return LoadedClips(tuple(kept), waveform_NS, np.array(lengths, dtype=np.int64), tuple(quarantined), cut)


def _rows(table: Path) -> Iterator[dict[str, str]]:
    """The rows of an AudioCaps table, checked, each field stripped and each caption in one line."""
    rows = csv.reader(io.StringIO(_text(table), newline=""), strict=True)
    header: list[str] = []
    ids: dict[str, int] = {}
    try:
        header = [name.strip() for name in next(rows, [])]
        for name in AUDIOCAPS_COLUMNS:
            if header.count(name) != 1:
                fault = "stands twice" if name in header else "is missing"
                raise ValueError(f"{table}, row 1: column {name} {fault}; needed: {', '.join(AUDIOCAPS_COLUMNS)}")
        for number, fields in enumerate(rows, start=2):
            if fields:  # an empty line is no row
                yield _checked(dict(zip(header, fields, strict=False)), len(fields), len(header), ids, table, number)
    except csv.Error as error:
        raise ValueError(f"{table}, line {rows.line_num} is not CSV: {error}") from None
    if not ids:
        raise ValueError(f"{table} holds a header and no row")


def _checked(
    row: dict[str, str], found: int, needed: int, ids: dict[str, int], table: Path, number: int
) -> dict[str, str]:
    if found != needed:
        raise ValueError(
            f"{table}, row {number}: {found} fields, and the header has {needed}; quote a text with commas"
        )
    row = {name: " ".join(row[name].split()) for name in AUDIOCAPS_COLUMNS}
    for name, value in row.items():
        if not value:
            raise ValueError(f"{table}, row {number}, column {name}: empty")
    if not re.fullmatch(r"\d+(\.\d+)?", row["start_time"], re.ASCII):
        raise ValueError(f"{table}, row {number}, column start_time: {row['start_time']!r} is no number of seconds")
    if (before := ids.setdefault(row["audiocap_id"], number)) != number:
        raise ValueError(
            f"{table}, row {number}, column audiocap_id: {row['audiocap_id']!r} stands in row {before} as well"
        )
    return row


def _text(table: Path) -> str:
    if table.is_dir():
        raise ValueError(f"{table} is a folder; name a CSV file with the columns {', '.join(AUDIOCAPS_COLUMNS)}")
    try:
        content = table.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{table} does not exist; give the path of a CSV file") from None
    except OSError as error:
        raise ValueError(f"{table} cannot be read: {error.strerror}") from None
    if (at := content.find(b"\0")) >= 0:
        raise ValueError(f"{table}, line {content.count(bytes([10]), 0, at) + 1} holds a NUL byte; a CSV file is text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{table}, line {line} is not UTF-8; save the table as CSV in UTF-8") from None


def _folder(folder: Path | str) -> Path:
    root = user_path(folder)
    if not root.is_dir():
        raise ValueError(
            f"sounds are read from a folder, and {folder} {'is a file' if root.exists() else 'is not there'}"
        )
    return root


def _audio_under(root: Path) -> Iterator[Path]:
    """Audio files at any depth, by their suffix, sorted; hidden ones count for nothing."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                yield Path(folder) / name


def _audio_by_stem(folder: Path) -> dict[str, Path]:
    """File names without suffix; the first, sorted, of two that agree."""
    found: dict[str, Path] = {}
    for path in _audio_under(_folder(folder)):
        found.setdefault(path.stem, path)
    return found
