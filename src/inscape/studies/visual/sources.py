"""Where sentences come from: the scene grammar, or any text file (`data.text=PATH`).

Both give the same four things: a tokenizer, training batches that are pure functions of (seed, step, rank), sentences
held out from training, and 16 sentences for the montage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from inscape.data.scenes import WORDS, fast, sample
from inscape.data.scenes.evaluation import evaluation_pack
from inscape.data.scenes.wording import render
from inscape.data.text import TextCorpus, TokenisedText
from inscape.data.tokenizer import MAX_LENGTH, MAX_VOCAB, Tokenizer

__all__ = ["DataConfig", "Source", "check_data", "open_source"]

MONTAGE = 16
BUCKETS = (16, 24, 32, 48, 64)  # tokens; one-fact sentences fit in 24


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

    def held_out(self, count: int) -> list[str]:
        """Up to `count` sentences that are in no training batch, the same ones every time."""
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

    def batch_at(self, seed: int, step: int, rank: int, world: int, size: int) -> np.ndarray:
        facts = self.config.facts or None
        batch = fast.batch_at(
            self.table, seed=seed, step=step, size=size, rank=rank, world=world, facts=facts, buckets=BUCKETS
        )
        return batch.tokens_BT

    def held_out(self, count: int) -> list[str]:
        rng = np.random.default_rng(2_027)
        numbers = [self.config.facts or 1 + i % 3 for i in range(count)]
        return [render(sample(rng, facts=n, split="test"), rng) for n in numbers]

    def report(self) -> dict[str, Any]:
        pack = evaluation_pack()
        return {"corpus": "scene grammar", "evaluation_pack": pack.version, "tokenizer": self.tokenizer.fingerprint}


@dataclass(frozen=True)
class _Text:
    corpus: TextCorpus
    tokens: TokenisedText
    tokenizer: Tokenizer
    montage: tuple[str, ...]

    def batch_at(self, seed: int, step: int, rank: int, world: int, size: int) -> np.ndarray:
        return self.tokens.batch_at(seed, step, rank, world, size)

    def held_out(self, count: int) -> list[str]:
        return [self.corpus[int(row)] for row in self.tokens.rows("test")[:count]]

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
