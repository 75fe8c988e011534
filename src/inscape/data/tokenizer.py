"""Sentences to token ids and back, exactly: byte-level BPE or a word-level vocabulary, from the `tokenizers` library.

Text is normalised first: Unicode NFC, every run of whitespace becomes one space, none at either end. Then each
whitespace-separated word is cut into pieces (letters, digits, other signs; GPT-2's rule) and encoded by itself, so the
ids of a sentence are the ids of its words put in a row: a closed grammar can be tokenised from a table (`word_ids`).

Special tokens are stored under names that begin with a space. No piece of text holds a space (the byte-level alphabet
writes it as U+0120), so no text, "<copy>" included, can ever become a special id.

Shapes: B sentences, T tokens, N tokens of all sentences in a row, S sentences.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

import numpy as np

from inscape.core.rundir import write_atomically

if TYPE_CHECKING:
    import tokenizers
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BOS",
    "BUCKETS",
    "CANONICAL",
    "COPY",
    "EOS",
    "MAX_LENGTH",
    "MAX_VOCAB",
    "PAD",
    "PARAPHRASE",
    "SPECIALS",
    "UNK",
    "Ragged",
    "Tokenizer",
    "bucket_width",
    "normalise",
    "pad_rows",
]

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>", "<copy>", "<canonical>", "<paraphrase>")  # the place is the id
PAD, BOS, EOS, UNK, COPY, CANONICAL, PARAPHRASE = range(len(SPECIALS))
MAX_LENGTH = 64  # tokens of a sentence, bos and eos included
MAX_VOCAB = 32_768
BUCKETS = (16, 24, 32, 48, 64)  # widths that a compiled model meets, so that it is compiled five times and not sixty

_BYTES = 256
_SMALLEST = {"bpe": len(SPECIALS) + _BYTES, "word": len(SPECIALS) + 1}
_CHUNK = 16_384  # sentences encoded at a time; bounds the library's memory on large files


class Ragged(NamedTuple):
    """Sentences of different lengths in a row: sentence s is `ids[offsets[s] : offsets[s + 1]]`."""

    ids: NDArray[np.int32]  # (N,)
    offsets: NDArray[np.int64]  # (S + 1,)


def normalise(text: str) -> str:
    """NFC, runs of whitespace to one space, none at the ends: the form in which decoding is the inverse of encoding."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split())


def bucket_width(longest: int, limit: int = MAX_LENGTH) -> int:
    """The smallest of 16, 24, 32, 48, 64 that holds `longest` tokens, and never more than `limit`."""
    return min(next((width for width in BUCKETS if width >= longest), limit), limit)


def pad_rows(ragged: Ragged, rows_B: ArrayLike, width: int | None = None) -> NDArray[np.int64]:
    """The chosen sentences as tokens_BT, padded with 0 to `width`, or to the longest of them."""
    rows = np.asarray(rows_B, dtype=np.int64)
    starts = ragged.offsets[rows]
    lengths = ragged.offsets[rows + 1] - starts
    places = np.arange(lengths.max(initial=0) if width is None else width)
    inside_BT = places < lengths[:, None]
    tokens_BT = np.zeros(inside_BT.shape, dtype=np.int64)
    tokens_BT[inside_BT] = ragged.ids[(starts[:, None] + places)[inside_BT]]
    return tokens_BT


@final
class Tokenizer:
    """Encodes sentences as `bos w1 .. wn eos` and decodes them again.

    Two kinds. "bpe" is byte-level: any Unicode text comes back exactly and nothing is unknown. "word" has one id a
    piece, the most frequent first, and everything else is <unk>. A vocabulary can come out smaller than asked for
    (BPE stops when no two pieces meet twice; a closed grammar has few words): `vocab_size` is the actual size.

    What a size costs, measured: tokens per sentence (without bos and eos; mean) and embedding parameters at d = 384.

                              scene grammar, 94 words      145,000 image captions, every tenth held out
        asked for             ids  tokens  parameters      ids     tokens  parameters  unknown
        word, 32,000          101    25.0      0.04 M      21,064    13.6      8.09 M    0.5 %
        word, 4,000           101    25.0      0.04 M       4,000    13.6      1.54 M    2.8 %
        bpe, 400              400    35.6      0.15 M           -       -           -        -
        bpe, 1,000            484    25.0      0.19 M       1,000    19.8      0.38 M        0
        bpe, 4,000            484    25.0      0.19 M       4,000    14.9      1.54 M        0
        bpe, 32,000           484    25.0      0.19 M      19,461    13.7      7.47 M        0

    So for the grammar a word-level vocabulary, or BPE of 512 and more, costs nothing in length (12, 25 and 38 tokens
    for 1, 2 and 3 facts) and spares the 12.6 M parameters of a full 32,768 ids; the price of word-level is that no
    other word can be said. For open English, BPE of 4,000 is 9 % longer than of 20,000 at a fifth of the size.
    """

    def __init__(self, definition: str) -> None:
        """From a tokenizer's JSON text; ValueError if it is damaged or was not made by `Tokenizer.train`."""
        self._backend = _read(definition)
        self._definition = definition

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, kind: Literal["bpe", "word"] = "bpe") -> Tokenizer:
        """Learn at most `vocab_size` ids, the 7 special ones included; the same texts give the same vocabulary.

        ValueError: an unknown kind, a size out of range (263 to 32,768 for bpe, 8 to 32,768 for word), no text.
        Source: Sennrich et al. 2016 (BPE), Radford et al. 2019 (byte-level).
        """
        if kind not in _SMALLEST:
            raise ValueError(f"kind {kind!r} of tokenizer; there are: {', '.join(_SMALLEST)}")
        if isinstance(vocab_size, bool) or not _SMALLEST[kind] <= vocab_size <= MAX_VOCAB:
            raise ValueError(f"vocab_size {vocab_size} for {kind}; allowed: {_SMALLEST[kind]} to {MAX_VOCAB}")
        _refuse_string(texts)
        clean = filter(None, map(_encodable, texts))
        backend = _train_bpe(clean, vocab_size) if kind == "bpe" else _train_words(clean, vocab_size)
        state = json.loads(backend.to_str())
        # As vocabulary alone: "added" tokens would also be looked for inside the text.
        state["added_tokens"] = []
        return cls(json.dumps(state, ensure_ascii=False, separators=(",", ":")))

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a tokenizer.json written by `save`; ValueError if it is missing, damaged or foreign."""
        try:
            return cls(Path(path).read_bytes().decode())
        except OSError as error:
            raise ValueError(f"tokenizer {path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
            raise ValueError(f"tokenizer {path} cannot be used: {reason}") from None

    def save(self, path: Path | str) -> None:
        """Write a tokenizer.json that is seen whole or not at all; the `tokenizers` library reads it too."""
        write_atomically(Path(path), self._definition)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The inverse of `to_json`."""
        return cls(text)

    def to_json(self) -> str:
        """Everything about this tokenizer as one line, e.g. for the metadata of a safetensors file."""
        return self._definition

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the JSON, in hex: equal exactly if the tokenizers are."""
        return hashlib.sha256(self._definition.encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included: the rows an embedding needs."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    @property
    def kind(self) -> Literal["bpe", "word"]:
        """Byte-level pieces, or whole words with <unk> for the rest."""
        return "bpe" if type(self._backend.model).__name__ == "BPE" else "word"

    def encode(
        self,
        texts: Sequence[str],
        max_length: int = MAX_LENGTH,
        on_long: Literal["error", "truncate"] = "error",
        bucket: bool = False,
    ) -> NDArray[np.int64]:
        """tokens_BT: `bos w1 .. wn eos`, then 0 up to the longest sentence, or with `bucket` up to a width in BUCKETS.

        `on_long="truncate"` keeps the first `max_length - 1` tokens and ends with eos.
        ValueError: no text, an empty text, or one of more than `max_length` tokens (bos and eos included).
        """
        if on_long not in ("error", "truncate"):
            raise ValueError(f"on_long {on_long!r}; allowed: error, truncate")
        if max_length < 3:
            raise ValueError(f"max_length {max_length}; allowed: 3 (bos, one token, eos) or more")
        rows = [[BOS, *ids, EOS] for chunk in _chunks(texts) for ids in self._encoded(chunk)]
        if not rows:
            raise ValueError("no sentence to encode: the list of texts is empty")
        for text, row in zip(texts, rows, strict=True):
            if len(row) > max_length:
                if on_long == "error":
                    raise ValueError(_too_long(text, len(row), max_length))
                row[max_length - 1 :] = [EOS]
        longest = max(map(len, rows))
        tokens_BT = np.zeros((len(rows), bucket_width(longest, max_length) if bucket else longest), dtype=np.int64)
        for place, row in enumerate(rows):
            tokens_BT[place, : len(row)] = row
        return tokens_BT

    def encode_ragged(self, texts: Iterable[str]) -> Ragged:
        """Sentences of any length, `bos w1 .. wn eos` each, in one flat array: for whole corpora.

        Every distinct word is encoded once (six times as fast as sentence by sentence on 145,000 captions).
        """
        table: dict[str, array[int]] = {}
        ids, ends = array("i"), array("q", [0])
        for chunk in _chunks(texts):
            rows = [text.split(" ") for text in chunk]
            new = sorted({word for row in rows for word in row}.difference(table))
            table.update((word, array("i", found)) for word, found in zip(new, self._encoded(new), strict=True))
            for row in rows:
                ids.append(BOS)
                for word in row:
                    ids.extend(table[word])
                ids.append(EOS)
                ends.append(len(ids))
        return Ragged(np.array(ids, dtype=np.int32), np.array(ends, dtype=np.int64))

    def decode(self, tokens_BT: ArrayLike) -> list[str]:
        """One text a row, up to its first eos; special ids but <unk> are left out.

        The exact inverse of `encode` for normalised text. Any ids in range are accepted (a model may sample bytes
        that are not UTF-8: they become U+FFFD). ValueError: not two-dimensional, not integers, an id out of range.
        """
        tokens = np.asarray(tokens_BT)
        if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"tokens are {tokens.dtype} of shape {tokens.shape}; needed: integers of shape (B, T)")
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.vocab_size:
            raise ValueError(f"token ids {tokens.min()} to {tokens.max()}; allowed: 0 to {self.vocab_size - 1}")
        left_out = {PAD, BOS, COPY, CANONICAL, PARAPHRASE}
        rows = []
        for row in tokens.tolist():
            end = row.index(EOS) if EOS in row else len(row)
            rows.append([token for token in row[:end] if token not in left_out])
        return [text.removeprefix(" ") for text in self._backend.decode_batch(rows, skip_special_tokens=False)]

    def word_ids(self, words: Iterable[str]) -> dict[str, list[int]]:
        """The ids of each word by itself, without bos and eos: joined in order they are the ids of the sentence.

        ValueError: a word that is empty or holds whitespace.
        """
        _refuse_string(words)
        words = list(words)
        for word in words:
            if len(word.split()) != 1 or word != word.strip():
                raise ValueError(f"{word!r} is not one word: words are not empty and hold no whitespace")
        return dict(zip(words, self._encoded(list(map(_encodable, words))), strict=True))

    def starts_word(self) -> NDArray[np.bool_]:
        """Whether each id (vocab_size,) is the first of a whitespace-separated word: every word has exactly one.

        Never a special id, and so not <unk>, which can stand for any piece of a word.
        """
        starts = np.zeros(self.vocab_size, dtype=np.bool_)
        names = self._backend.get_vocab(with_added_tokens=False)
        starts[[place for name, place in names.items() if name.startswith("\u0120")]] = True
        return starts

    def unknown_words(self, text: str) -> list[str]:
        """The distinct words of `text` that are, in whole or in part, <unk>; never any for bpe."""
        words = dict.fromkeys(normalise(text).split())
        return [word for word, ids in self.word_ids(words).items() if UNK in ids]

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:8]!r})"

    def _encoded(self, clean: list[str]) -> Iterator[list[int]]:
        return (found.ids for found in self._backend.encode_batch_fast(clean, add_special_tokens=False))


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Normalised texts, some thousand at a time; ValueError on an empty one."""
    _refuse_string(texts)
    remaining = iter(texts)
    before = 0
    while chunk := list(map(_encodable, islice(remaining, _CHUNK))):
        if "" in chunk:
            raise ValueError(f"text {before + chunk.index('') + 1} is empty: give at least one word")
        yield chunk
        before += len(chunk)


def _refuse_string(texts: object) -> None:
    if isinstance(texts, str):
        raise ValueError("one string was given where a list of strings is needed: put it in a list")


def _encodable(text: str) -> str:
    """Normalised; ValueError on half a surrogate pair, which is no character and has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text {text[:40]!r} holds a lone surrogate at character {error.start + 1}") from None
    return normalise(text)


def _too_long(text: str, length: int, limit: int) -> str:
    start = normalise(text)
    start = start if len(start) <= 48 else start[:47] + "…"
    return (
        f"sentence {start!r} has {length} tokens with start and end, the limit is {limit}: "
        "shorten or split it, or cut it with on_long='truncate'"
    )


def _some(texts: Iterable[str]) -> Iterator[str]:
    """The same texts; ValueError if there are none."""
    remaining = iter(texts)
    first = next(remaining, None)
    if first is None:
        raise ValueError("no text to train a tokenizer on: every text is empty")
    return chain((first,), remaining)


def _stored(name: str) -> str:
    return f" {name}"


def _pipeline(model: Any) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import decoders, pre_tokenizers

    backend = tokenizers.Tokenizer(model)
    # Every word gets its own leading space, the first of a sentence too: that makes words independent.
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), pieces])
    backend.decoder = decoders.ByteLevel()
    return backend


def _train_bpe(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    from tokenizers import models, pre_tokenizers, trainers

    backend = _pipeline(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[_stored(name) for name in SPECIALS],  # pyright: ignore[reportArgumentType]
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(_some(texts), trainer)
    return backend


def _train_words(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    from tokenizers import models

    words: Counter[str] = Counter()
    for text in _some(texts):
        words.update(text.split(" "))
    cut = _pipeline(models.WordLevel()).pre_tokenizer
    pieces: Counter[str] = Counter()
    for word, count in words.items():
        for piece, _ in cut.pre_tokenize_str(word):
            pieces[piece] += count
    kept = sorted(pieces, key=lambda piece: (-pieces[piece], piece))[: vocab_size - len(SPECIALS)]
    vocab = {name: place for place, name in enumerate([*map(_stored, SPECIALS), *kept])}
    return _pipeline(models.WordLevel(vocab, unk_token=_stored(SPECIALS[UNK])))


def _read(definition: str) -> tokenizers.Tokenizer:
    """The library's tokenizer, after checking that it is one of ours: everything above relies on it."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    try:
        backend = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"damaged or not a tokenizer.json ({str(error).splitlines()[0]})") from None
    state, ours = json.loads(backend.to_str()), json.loads(_pipeline(models.WordLevel()).to_str())
    model: Mapping[str, Any] = state.pop("model")
    ours.pop("model")
    vocab = backend.get_vocab(with_added_tokens=False)
    names = {place: name for name, place in vocab.items()}
    complete = model["type"] == "WordLevel" and model["unk_token"] == _stored(SPECIALS[UNK])
    if model["type"] == "BPE":
        complete = vocab.keys() >= set(pre_tokenizers.ByteLevel.alphabet()) and not model["dropout"]
    if state != ours or not complete or [names.get(i) for i in range(len(SPECIALS))] != [*map(_stored, SPECIALS)]:
        raise ValueError("a tokenizer of another kind; train one with inscape.data.tokenizer.Tokenizer.train")
    if sorted(names) != list(range(len(vocab))):
        raise ValueError(f"damaged: its {len(vocab)} ids are not 0 to {len(vocab) - 1}")
    return backend
