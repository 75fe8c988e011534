"""What a decoder may say next: masks over the vocabulary from a state that each sentence carries along.

Three kinds share one protocol: `TokenConstraint` follows an automaton (the scene grammar), `VocabularyMask` forbids
only what is no word, and `inscape.data.user_grammar` follows a grammar that a user wrote. The first two are table
look-ups on the device: no loop over sentences, and the host never waits.

    constraint = TokenConstraint(scene_automaton(tokenizer), tokenizer.vocab_size, device=device)
    state_B = constraint.initial(batch)
    for left in range(max_length, 0, -1):
        logits_BV = logits_BV.masked_fill(~constraint.allowed(state_B, left), -inf)
        state_B = constraint.advance(state_B, token_B)

Legend: B sentences, V vocabulary, S states, A columns of the automaton.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from inscape.data.scenes.automaton import FORBIDDEN, Automaton
from inscape.data.tokenizer import EOS, PAD, SPECIALS

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

__all__ = ["Constraint", "TokenConstraint", "VocabularyMask"]

_NEVER = torch.iinfo(torch.int32).max


class Constraint(Protocol):
    """What may follow, as a function of a state for each sentence; each call gives a new state and keeps the old."""

    def initial(self, batch: int) -> Tensor:
        """States before the first token, one a row."""
        ...

    def allowed(self, state_B: Tensor, left: int | None = None) -> Tensor:
        """mask_BV: True for tokens that may come next, when `left` tokens remain (this one and eos included)."""
        ...

    def advance(self, state_B: Tensor, token_B: Tensor) -> Tensor:
        """States after the tokens."""
        ...


class TokenConstraint:
    """The sentences of an automaton: with `left` given, every output is a whole one within its length.

    `shortest` is the number of tokens, eos included, that an output needs. Given fewer, there is no whole sentence to
    be had, and `allowed` falls back to the automaton alone: the output is a beginning of a sentence.
    """

    def __init__(self, automaton: Automaton, vocab_size: int, *, device: torch.device | str = "cpu") -> None:
        """Tables on `device`; ValueError if the automaton uses ids that a vocabulary of this size does not hold."""
        if (largest := int(automaton.ids_A.max())) >= vocab_size:
            raise ValueError(f"the automaton uses token {largest}; vocab_size={vocab_size} has 0 to {vocab_size - 1}")
        next_SA, distance_S = automaton.next_SA, automaton.distances()
        self.shortest = int(distance_S[0])
        need_SA = np.where(next_SA == FORBIDDEN, _NEVER, 1 + distance_S[next_SA])
        column_V = np.full(vocab_size, len(automaton.ids_A))
        column_V[automaton.ids_A] = np.arange(len(automaton.ids_A))
        # One more column stands for every other id, which is forbidden; a forbidden token ends the sentence.
        need_SA = np.pad(need_SA, ((0, 0), (0, 1)), constant_values=_NEVER)
        next_SA = np.pad(np.where(next_SA == FORBIDDEN, automaton.end, next_SA), ((0, 0), (0, 1)), "maximum")
        self._need_SA = torch.as_tensor(need_SA, dtype=torch.int32, device=device)
        self._next_SA = torch.as_tensor(next_SA, dtype=torch.int64, device=device)
        self._column_V = torch.as_tensor(column_V, dtype=torch.int64, device=device)

    def initial(self, batch: int) -> Int[Tensor, " B"]:
        """The start, for each of `batch` sentences."""
        return torch.zeros(batch, dtype=torch.int64, device=self._next_SA.device)

    def allowed(self, state_B: Int[Tensor, " B"], left: int | None = None) -> Bool[Tensor, "B V"]:
        """mask_BV of the tokens after which a sentence can still end; within `left` tokens, this one and eos included.

        After eos only pad is allowed.
        """
        need_BA = self._need_SA[state_B]
        allowed_BA = possible_BA = need_BA < _NEVER
        if left is not None:
            fitting_BA = need_BA <= left
            allowed_BA = torch.where(fitting_BA.any(-1, keepdim=True), fitting_BA, possible_BA)
        return allowed_BA[:, self._column_V]

    def advance(self, state_B: Int[Tensor, " B"], token_B: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The states after the tokens; a token that was not allowed leads to the end, where only pad follows."""
        return self._next_SA[state_B, self._column_V[token_B]]


class VocabularyMask(TokenConstraint):
    """Any words: one or more of the ordinary tokens, then eos. Specials other than eos, unk among them, are forbidden.

    With `left` given the last token of a sentence that would be too long is eos.
    """

    def __init__(
        self, vocab_size: int, *, seen: Iterable[int] | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """`seen`: the ids that may be said, such as those met in training; None: all.

        ValueError if an id is out of range or none is left to say.
        """
        words = np.arange(len(SPECIALS), vocab_size)
        if seen is not None:
            given = np.unique(np.fromiter(seen, dtype=np.int64))
            if given.size and not 0 <= given[0] <= given[-1] < vocab_size:
                raise ValueError(f"seen holds ids {given[0]} to {given[-1]}; allowed: 0 to {vocab_size - 1}")
            words = given[given >= len(SPECIALS)]
        if not words.size:
            raise ValueError(f"no token is left to say: none of the ids given is an ordinary one ({len(SPECIALS)} on)")
        ids_A = np.array(sorted((PAD, EOS, *words.tolist())))
        nothing, something, end = range(3)
        next_SA = np.full((3, len(ids_A)), FORBIDDEN, dtype=np.int32)
        next_SA[nothing : something + 1, 2:] = something  # pad and eos are the two smallest ids
        next_SA[something, 1] = end
        next_SA[end, 0] = end
        super().__init__(Automaton(next_SA, ids_A), vocab_size, device=device)
