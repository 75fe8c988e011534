"""Where sentences come from: the scene grammar, or any text file (`data.text=PATH`).

Both give the same four things: a tokenizer, training batches that are pure functions of (seed, step, rank), sentences
held out from training, and 16 sentences for the montage.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from inscape.data.scenes import WORDS, fast, sample
from inscape.data.scenes.evaluation import evaluation_pack
from inscape.data.scenes.tuples import tuples_at
from inscape.data.scenes.wording import render
from inscape.data.text import SPLITS, TextCorpus, TokenisedText
from inscape.data.text_negatives import Lexicon, lexicon, word_replace, word_swap
from inscape.data.tokenizer import BUCKETS, CANONICAL, MAX_LENGTH, MAX_VOCAB, PARAPHRASE, Tokenizer

__all__ = [
    "UNITS_NEEDED",
    "DataConfig",
    "Mixture",
    "SentenceTuples",
    "Source",
    "TextSource",
    "check_data",
    "open_source",
]

MONTAGE = 16
_TARGETS = 5 << 32  # a stream of random numbers of its own
SORTED = 16  # batches of a text file that are drawn together and sorted by length
LEAST_HELD_OUT = 40  # sentences of a text file that are held out: a readout of words is fitted on half of them
PROBED, PROBED_WORDS = 1024, (0.1, 0.5)  # sentences, and which share of them holds a word that P1 reads off V
# With fewer held-out sentences or groups, none of them coming back from another's V does not show that 1 % would not.
UNITS_NEEDED = 381


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    text: str = ""  # path of a text file or TSV of paraphrases; empty: the scene grammar
    facts: int = 0  # facts a scene (1 to 3); 0: all three mixed. The grammar only
    vocab: int = 32_000  # most token ids; byte-pair merging stops earlier when it runs out of words
    max_length: int = MAX_LENGTH  # tokens a sentence, start and end included

    def __post_init__(self) -> None:
        if not 0 <= self.facts <= 3:
            raise ValueError(f"data.facts={self.facts} is out of range; allowed: 0 (mixed), 1, 2, 3")
        if not 263 <= self.vocab <= MAX_VOCAB:
            raise ValueError(f"data.vocab={self.vocab} is out of range; allowed: 263 (all bytes) to {MAX_VOCAB}")
        if not 8 <= self.max_length <= MAX_LENGTH:
            raise ValueError(f"data.max_length={self.max_length} is out of range; allowed: 8 to {MAX_LENGTH}")


@dataclass(frozen=True)
class Mixture:
    """What tuples are made of; facts, swaps, edited, drawn and rewordings act with the grammar, edits with a text file,
    and paraphrases with whatever says which sentences mean the same."""

    one: float = 1.0  # weight of steps with scenes of one fact
    two: float = 1.0  # of two facts
    three: float = 1.0  # of three facts
    swaps: int = 2  # how much oftener than other edits arguments and attributes are swapped
    edited: int = 1  # scenes one edit away that are drawn for each given one; the batch keeps what z confuses most
    drawn: int = 1  # scenes that are drawn for each that is kept: those that z confuses most with one of their edits
    paraphrases: float = 0.0  # share of sentences whose target is another wording; the grammar's rest: the canonical
    rewordings: int = 3  # wordings that such a target is chosen from: the one least like what it is decoded from
    edits: float = 0.0  # text file: hard negatives made from the text (word and order swaps), as a share of the batch

    def __post_init__(self) -> None:
        weights = (self.one, self.two, self.three)
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not sum(weights):
            raise ValueError(f"mixture.one, two, three={weights} are out of range; allowed: 0 or more, not all 0")
        if not 0 <= self.swaps <= 100:
            raise ValueError(f"mixture.swaps={self.swaps} is out of range; allowed: 0 to 100")
        for name in ("edited", "drawn", "rewordings"):
            if not 1 <= getattr(self, name) <= 63:
                raise ValueError(f"mixture.{name}={getattr(self, name)} is out of range; allowed: 1 to 63")
        for name in ("paraphrases", "edits"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"mixture.{name}={getattr(self, name)} is out of range; allowed: 0 to 1")


class SentenceTuples(NamedTuple):
    """A step's tokens, (B, T) int64 of one width, padded with 0."""

    sentence_BT: np.ndarray
    paraphrase_BT: np.ndarray
    target_BT: np.ndarray  # what is to be decoded from the paraphrase, beside itself; may be empty
    start_B: np.ndarray  # with which start token
    negative_NT: np.ndarray  # further sentences that mean something else; N may be 0


class Source(Protocol):
    """What the phases ask of a corpus."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns its sentences into token ids."""
        ...

    @property
    def montage(self) -> tuple[str, ...]:
        """16 sentences for pictures, the same ones every time."""
        ...

    def batch_at(self, seed: int, step: int, rank: int, world: int, size: int) -> np.ndarray:
        """tokens_BT int64 of training sentences: this rank's slice of the step's `size` sentences."""
        ...

    @property
    def has_groups(self) -> bool:
        """Whether the corpus says which sentences mean the same."""
        ...

    @property
    def has_edits(self) -> bool:
        """Whether tuples are families: a scene, and `mixture.edited` scenes that are one edit away from it."""
        ...

    def tuples_at(self, seed: int, step: int, rank: int, world: int, size: int, mixture: Mixture) -> SentenceTuples:
        """Sentences with paraphrases and what to decode: this rank's slice of the step's `size` tuples.

        Of families, row i + k F is row i's scene after its k-th edit, F being the number of families.
        """
        ...

    def held_out(self, count: int) -> list[str]:
        """Up to `count` sentences that are in no training batch, the same ones every time."""
        ...

    def held_out_pairs(self, count: int) -> list[tuple[str, str]]:
        """Up to `count` pairs of held-out sentences that mean the same; none where the corpus does not say."""
        ...

    def watched(self, count: int) -> list[str]:
        """Up to `count` sentences of the validation split, to look at during training."""
        ...

    def report(self) -> dict[str, Any]:
        """What the data was: names, sizes, hashes."""
        ...


@dataclass(frozen=True)
class _Grammar:
    config: DataConfig
    tokenizer: Tokenizer
    table: fast.PhraseTable
    montage: tuple[str, ...] = field(default_factory=lambda: evaluation_pack().montage)
    has_edits: bool = True
    has_groups: bool = True

    def batch_at(self, seed: int, step: int, rank: int, world: int, size: int) -> np.ndarray:
        facts = self.config.facts or None
        batch = fast.batch_at(
            self.table, seed=seed, step=step, size=size, rank=rank, world=world, facts=facts, buckets=BUCKETS
        )
        return batch.tokens_BT

    def tuples_at(self, seed: int, step: int, rank: int, world: int, size: int, mixture: Mixture) -> SentenceTuples:
        only = self.config.facts
        facts = (mixture.one, mixture.two, mixture.three)
        if only:
            facts = tuple(float(n == only) for n in (1, 2, 3))
        drawn = tuples_at(
            self.table,
            seed=seed,
            step=step,
            size=size,
            rank=rank,
            world=world,
            facts=facts,
            swaps=mixture.swaps,
            edited=mixture.edited,
            rewordings=mixture.rewordings,
        )
        # Numbers of the step's rows, whoever draws them: scenes of all processes first, then their first edits, ...
        families = len(drawn.sentence_BT) // (1 + mixture.edited)
        edit_B, family_B = np.divmod(np.arange(len(drawn.sentence_BT)), families)
        row_B = edit_B * families * world + rank * families + family_B
        reworded_B = fast.uniforms(seed, _TARGETS + step, row_B, 1)[:, 0] < mixture.paraphrases
        return SentenceTuples(
            drawn.sentence_BT,
            drawn.paraphrase_BT,
            np.where(reworded_B[:, None], drawn.reworded_BT, drawn.canonical_BT),
            np.where(reworded_B, PARAPHRASE, CANONICAL),
            drawn.sentence_BT[:0],
        )

    def held_out(self, count: int) -> list[str]:
        rng = np.random.default_rng(2_027)
        numbers = [self.config.facts or 1 + i % 3 for i in range(count)]
        return [render(sample(rng, facts=n, split="test"), rng) for n in numbers]

    def held_out_pairs(self, count: int) -> list[tuple[str, str]]:
        rng = np.random.default_rng(2_029)
        scenes = [sample(rng, facts=self.config.facts or 1 + i % 3, split="test") for i in range(count)]
        return [(render(scene, rng), render(scene, rng)) for scene in scenes]

    def watched(self, count: int) -> list[str]:
        rng = np.random.default_rng(2_028)
        numbers = [self.config.facts or 1 + i % 3 for i in range(count)]
        return [render(sample(rng, facts=n, split="validation"), rng) for n in numbers]

    def report(self) -> dict[str, Any]:
        pack = evaluation_pack()
        return {"corpus": "scene grammar", "evaluation_pack": pack.version, "tokenizer": self.tokenizer.fingerprint}


@dataclass(frozen=True, eq=False)
class TextSource:
    """A text file: sentences, or groups of paraphrases."""

    corpus: TextCorpus
    tokens: TokenisedText
    tokenizer: Tokenizer
    montage: tuple[str, ...]
    has_edits: bool = False

    def batch_at(self, seed: int, step: int, rank: int, world: int, size: int) -> np.ndarray:
        return self.tokens.batch_at(seed, step, rank, world, size)

    def tuples_at(self, seed: int, step: int, rank: int, world: int, size: int, mixture: Mixture) -> SentenceTuples:
        if self.has_groups:
            first_BT, second_BT = self.tokens.pairs_at(seed, step, rank, world, size, sort_within=SORTED)
        else:  # two views of the same sentence, which dropout and the noise on V tell apart
            first_BT = second_BT = self.tokens.batch_at(seed, step, rank, world, size, sort_within=SORTED)
        width = max(first_BT.shape[1], second_BT.shape[1])
        # Rows come by length, and the first of them are reworded and edited: not the shortest, but any.
        place_B = rank * len(first_BT) + np.arange(len(first_BT))
        order_B = fast.uniforms(seed, _TARGETS + step, place_B, 1)[:, 0].argsort(kind="stable")
        first_BT, second_BT = (np.pad(t, ((0, 0), (0, width - t.shape[1])))[order_B] for t in (first_BT, second_BT))
        row_N = np.arange(round(mixture.edits * len(first_BT)))
        negative_NT = first_BT[row_N]
        if len(row_N):
            place_N = place_B[row_N]
            swapped = word_swap(self.words, negative_NT, seed=seed, step=step, row_B=place_N)
            replaced = word_replace(self.words, negative_NT, seed=seed, step=step, row_B=place_N)
            by_swap_N = (place_N % 2 == 0) & swapped.changed_B
            negative_NT = np.where(by_swap_N[:, None], swapped.tokens_BT, replaced.tokens_BT)
            negative_NT = negative_NT[by_swap_N | replaced.changed_B]
        # Row i of the targets is said of row i of the paraphrases: the first of a group, of the V of its second.
        reworded = round(mixture.paraphrases * len(first_BT)) if self.has_groups else 0
        start_R = np.full(reworded, PARAPHRASE, dtype=np.int64)
        return SentenceTuples(first_BT, second_BT, first_BT[:reworded], start_R, negative_NT)

    @property
    def has_groups(self) -> bool:
        """Whether the file says which sentences mean the same."""
        return len(self.tokens.groups.offsets) > 1

    @cached_property
    def words(self) -> Lexicon:
        """What words can be exchanged."""
        return lexicon(self.tokenizer, self.tokens.tokens, self.tokens.rows("train"))

    def held_out(self, count: int) -> list[str]:
        # One of each group first: sentences that mean the same are no independent sample.
        firsts = [first for first, _ in self.tokens.pairs("test")[:count]] if self.has_groups else []
        others = self.tokens.sampled("test")
        others = others[~np.isin(others, firsts)][: count - len(firsts)]
        return [self.corpus[int(row)] for row in (*firsts, *others)]

    def held_out_pairs(self, count: int) -> list[tuple[str, str]]:
        return [(self.corpus[first], self.corpus[second]) for first, second in self.tokens.pairs("test")[:count]]

    def watched(self, count: int) -> list[str]:
        return [self.corpus[int(row)] for row in self.tokens.sampled("validation")[:count]]

    def report(self) -> dict[str, Any]:
        return {"corpus": "text file", **self.tokens.report()}


def check_data(config: DataConfig) -> None:
    """ValueError if `config` names a text file that cannot be trained on, or too small a vocabulary for the grammar.

    Of a file that can be trained on but is too small for a verdict it warns on standard error, once.
    """
    if config.text:
        _check_text(_load(config.text))
    else:
        open_source(config)


def _check_text(corpus: TextCorpus) -> None:
    """What P1 and P4 would find out after training."""
    name, place = corpus.source.file, SPLITS.index("test")
    held_out = corpus.shuffled(np.flatnonzero(corpus.split_S == place))
    units = len(held_out)
    if corpus.source.groups:
        units = int((corpus.split_S[corpus.groups.ids[corpus.groups.offsets[:-1]]] == place).sum())
    if len(held_out) < LEAST_HELD_OUT:
        raise ValueError(
            f"{name} has too few sentences to judge by: {len(held_out)} of {len(corpus)} are held out, and "
            f"{LEAST_HELD_OUT} are needed; give 1,000 or more"
        )
    bags = [set(corpus[int(row)].lower().split()) for row in held_out[:PROBED]]
    holds = Counter(word for bag in bags for word in bag)
    if not any(PROBED_WORDS[0] * len(bags) <= count <= PROBED_WORDS[1] * len(bags) for count in holds.values()):
        raise ValueError(
            f"{name}: no word stands in a tenth to a half of its sentences, so P1 could not say whether a picture "
            "depends on the text; give sentences with blanks between words"
        )
    if units < UNITS_NEEDED:
        _say_once(
            f"{name}: {units} {'groups' if corpus.source.groups else 'sentences'} are held out; below {UNITS_NEEDED} "
            "no gate of P4 can pass (about 8,000 in the file hold out as many)"
        )


@lru_cache(maxsize=16)
def _say_once(line: str) -> None:
    print(f"inscape: {line}", file=sys.stderr)


def _load(path: str) -> TextCorpus:
    """The file, read once as long as it stays as it is: every phase asks for it before the first one runs."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return TextCorpus.load(path)  # which says what is wrong
    return _loaded(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1)
def _loaded(path: str, size: int, modified: int) -> TextCorpus:
    return TextCorpus.load(path)


def open_source(config: DataConfig) -> Source:
    """The corpus that `config` names, with a byte-pair tokenizer trained on its training split (deterministic)."""
    if not config.text:
        # The grammar has no other words than these; twice, because merging passes over what it has seen once.
        tokenizer = Tokenizer.train(list(WORDS) * 2, config.vocab)
        ids = tokenizer.word_ids(WORDS)
        if max(map(len, ids.values())) > 1:
            raise ValueError(
                f"data.vocab={config.vocab} splits the grammar's words; allowed: 500 or more (it uses 486)"
            )
        return _Grammar(config, tokenizer, fast.phrase_table(ids))
    corpus = _load(config.text)
    tokenizer = Tokenizer.train(corpus.sentences("train"), config.vocab)
    tokens = corpus.tokenise(tokenizer, config.max_length)
    rows = tokens.sampled("validation")[:MONTAGE]
    return TextSource(corpus, tokens, tokenizer, tuple(corpus[int(row)] for row in rows))
