"""Where sentences come from: the scene grammar, or any text file (`data.text=PATH`).

Both give the same four things: a tokenizer, training batches that are pure functions of (seed, step, rank), sentences
held out from training, and 16 sentences for the montage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from inscape.data.scenes import WORDS, fast, sample
from inscape.data.scenes.evaluation import evaluation_pack
from inscape.data.scenes.tuples import tuples_at
from inscape.data.scenes.wording import render
from inscape.data.text import TextCorpus, TokenisedText
from inscape.data.text_negatives import Lexicon, lexicon, word_replace, word_swap
from inscape.data.tokenizer import BUCKETS, CANONICAL, MAX_LENGTH, MAX_VOCAB, PARAPHRASE, Tokenizer

__all__ = ["DataConfig", "Mixture", "SentenceTuples", "Source", "check_data", "open_source"]

MONTAGE = 16
_TARGETS = 5 << 32  # a stream of random numbers of its own
SORTED = 16  # batches of a text file that are drawn together and sorted by length


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
    """What tuples are made of; facts, swaps, edited and rewordings act with the grammar, edits with a text file."""

    one: float = 1.0  # weight of steps with scenes of one fact
    two: float = 1.0  # of two facts
    three: float = 1.0  # of three facts
    swaps: int = 2  # how much oftener than other edits arguments and attributes are swapped
    edited: int = 1  # scenes one edit away that are drawn for each given one; the batch keeps what z confuses most
    paraphrases: float = 0.0  # share of targets that are another wording instead of the canonical one
    rewordings: int = 3  # wordings that such a target is chosen from: the one least like what it is decoded from
    edits: float = 0.0  # text file: hard negatives made from the text (word and order swaps), as a share of the batch

    def __post_init__(self) -> None:
        weights = (self.one, self.two, self.three)
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not sum(weights):
            raise ValueError(f"mixture.one, two, three={weights} are out of range; allowed: 0 or more, not all 0")
        if not 0 <= self.swaps <= 100:
            raise ValueError(f"mixture.swaps={self.swaps} is out of range; allowed: 0 to 100")
        for name in ("edited", "rewordings"):
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
        row_B = np.arange(len(drawn.sentence_BT)) + rank * len(drawn.sentence_BT)
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
class _Text:
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
            first_BT = second_BT = self.tokens.batch_at(seed, step, rank, world, size)
        width = max(first_BT.shape[1], second_BT.shape[1])
        first_BT, second_BT = (np.pad(t, ((0, 0), (0, width - t.shape[1]))) for t in (first_BT, second_BT))
        row_N = np.arange(round(mixture.edits * len(first_BT)))
        negative_NT = first_BT[row_N]
        if len(row_N):
            place_N = row_N + rank * len(first_BT)
            swapped = word_swap(self.words, negative_NT, seed=seed, step=step, row_B=place_N)
            replaced = word_replace(self.words, negative_NT, seed=seed, step=step, row_B=place_N)
            by_swap_N = (place_N % 2 == 0) & swapped.changed_B
            negative_NT = np.where(by_swap_N[:, None], swapped.tokens_BT, replaced.tokens_BT)
            negative_NT = negative_NT[by_swap_N | replaced.changed_B]
        return SentenceTuples(first_BT, second_BT, second_BT[:0], np.zeros(0, np.int64), negative_NT)

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
        others = self.tokens.rows("test")
        others = others[~np.isin(others, firsts)][: count - len(firsts)]
        return [self.corpus[int(row)] for row in (*firsts, *others)]

    def held_out_pairs(self, count: int) -> list[tuple[str, str]]:
        return [(self.corpus[first], self.corpus[second]) for first, second in self.tokens.pairs("test")[:count]]

    def watched(self, count: int) -> list[str]:
        return [self.corpus[int(row)] for row in self.tokens.rows("validation")[:count]]

    def report(self) -> dict[str, Any]:
        return {"corpus": "text file", **self.tokens.report()}


def check_data(config: DataConfig) -> None:
    """ValueError if `config` names a text file that cannot be trained on, or too small a vocabulary for the grammar."""
    if config.text:
        TextCorpus.load(config.text)
    else:
        open_source(config)


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
    corpus = TextCorpus.load(config.text)
    tokenizer = Tokenizer.train(corpus.sentences("train"), config.vocab)
    tokens = corpus.tokenise(tokenizer, config.max_length)
    rows = tokens.rows("validation")[:MONTAGE]
    return _Text(corpus, tokens, tokenizer, tuple(corpus[int(row)] for row in rows))
