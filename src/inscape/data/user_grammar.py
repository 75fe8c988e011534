"""Grammars that a user writes, as constraints on a decoder: Lark syntax, followed by the library llguidance.

    start: number " " noun "s"          the text is what `Tokenizer.decode` gives: words, one space between them
    number: "two" | "three"             https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
    noun: /[a-z]+/

`user_constraint(text, tokenizer)` has the methods of `inscape.nn.constraint.Constraint`. Its masks are computed by the
CPU, for each different beginning of the batch, and copied to the device: made for dozens of sentences, not for
training. A context-free grammar may need any number of tokens to end, so unlike `TokenConstraint` it cannot promise
that a sentence ends in time: eos is taken at the last token if it is allowed there, else the sentence is cut.

Legend: B sentences, T tokens said so far, V vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inscape.data.tokenizer import BOS, EOS, PAD, SPECIALS, UNK, Tokenizer, normalise
from inscape.extras import load_extra

if TYPE_CHECKING:
    from types import ModuleType

    from jaxtyping import Bool, Int
    from numpy.typing import NDArray
    from torch import Tensor

    from inscape.nn.constraint import Constraint

__all__ = ["user_constraint"]


def user_constraint(grammar_text: str, tokenizer: Tokenizer, *, device: torch.device | str = "cpu") -> Constraint:
    """A constraint whose sentences are those of a grammar in Lark syntax, over the text that `tokenizer` decodes.

    ValueError in one line: the library is not installed, or the grammar is malformed (where, and why). While decoding,
    ValueError if the grammar asks for text that the tokenizer has no tokens for.
    """
    if not isinstance(grammar_text, str):
        raise ValueError(f"a grammar is its rules as text, in Lark syntax; given: {str(grammar_text)[:40]}")
    library = _library()
    vocabulary = _Vocabulary(tokenizer)
    follower = library.LLTokenizer(vocabulary, slices=[])
    alone = library.LLMatcher.grammar_from_lark(grammar_text)
    malformed, messages = library.LLMatcher.validate_grammar_with_warnings(alone, follower)
    if malformed:
        raise ValueError(f"the grammar is malformed: {_in_one_line(messages[0])}")
    # A tokenizer of ours writes every word with its space, the first as well, and takes the first one away in the end.
    parts = {"sentence": 'start: " " @grammar', "grammar": grammar_text}
    whole = json.dumps({"grammars": [{"name": name, "lark_grammar": text} for name, text in parts.items()]})
    limits = library.LLParserLimits(verbose_errors=False)
    matcher = library.LLMatcher(follower, whole, log_level=0, limits=limits)
    if matcher.is_error():
        raise ValueError(f"the grammar is malformed: {_in_one_line(matcher.get_error())}")
    return _UserConstraint(matcher, tokenizer, device)


def _library() -> ModuleType:
    return load_extra("llguidance", "grammar", "a grammar")


def _in_one_line(error: str) -> str:
    """The library's message without its picture of the place: "line 1, column 20: lexer error"."""
    lines = error.splitlines()
    reasons = [lines[0].removesuffix(" regex parse error:"), *(x for x in lines[1:] if x.startswith("error: "))]
    place = re.match(r"(?:at )?(\d+)\((\d+)\): ", reasons[0])
    if place:
        reasons[0] = f"line {place[1]}, column {place[2]}: {reasons[0][place.end() :]}"
    return "; ".join(reasons)


class _UserConstraint:
    """A sentence's state is what was said, as a row of token ids: matchers are made from it and not kept."""

    def __init__(self, matcher: Any, tokenizer: Tokenizer, device: torch.device | str) -> None:
        self._matcher, self._tokenizer, self._device = matcher, tokenizer, torch.device(device)

    def initial(self, batch: int) -> Int[Tensor, "B 0"]:
        return torch.zeros(batch, 0, dtype=torch.int64, device=self._device)

    def allowed(self, state_B: Int[Tensor, "B T"], left: int | None = None) -> Bool[Tensor, "B V"]:
        said_BT = state_B.cpu().numpy()
        different, which_B = np.unique(said_BT, axis=0, return_inverse=True)
        mask = np.stack([self._following(said.tolist()) for said in different])
        if left == 1:
            mask[mask[:, EOS]] = np.arange(mask.shape[1]) == EOS
        return torch.from_numpy(mask[which_B.reshape(-1)]).to(self._device)

    def advance(self, state_B: Int[Tensor, "B T"], token_B: Int[Tensor, " B"]) -> Int[Tensor, "B T1"]:
        return torch.cat((state_B, token_B[:, None]), 1)

    def _following(self, said: list[int]) -> NDArray[np.bool_]:
        """mask_V after these tokens; after eos only pad."""
        if EOS in said:
            return np.arange(self._tokenizer.vocab_size) == PAD
        # An error stays with a matcher for good, so each beginning is followed by a copy.
        matcher = self._matcher.deep_copy()
        if not matcher.consume_tokens(said):
            raise ValueError(f"{self._text(said)!r} is not the beginning of a sentence of the grammar")
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        if matcher.is_error():
            raise ValueError(f"the grammar cannot be followed after {self._text(said)!r}: {matcher.get_error()}")
        mask = np.unpackbits(bits, bitorder="little")[: self._tokenizer.vocab_size].astype(bool)
        mask[[i for i in range(len(SPECIALS)) if i != EOS]] = False
        if not mask.any():
            raise ValueError(f"after {self._text(said)!r} the grammar asks for text that the tokenizer cannot write")
        return mask

    def _text(self, said: list[int]) -> str:
        return self._tokenizer.decode([said])[0] if said else ""


class _Vocabulary:
    """What llguidance asks of a tokenizer: the bytes of each token, and the tokens of a text that has to come.

    A word-level vocabulary cannot write every text, and the library does not expect that; so single bytes stand in
    behind the real tokens, and are cut off the masks.
    """

    is_tokenizer_wrapper = True
    eos_token_id, bos_token_id = EOS, BOS
    special_token_ids = tuple(range(len(SPECIALS)))

    def __init__(self, tokenizer: Tokenizer) -> None:
        byte_of = _byte_alphabet()
        vocab: Mapping[str, int] = json.loads(tokenizer.to_json())["model"]["vocab"]
        names = sorted(vocab, key=vocab.__getitem__)[len(SPECIALS) :]
        pieces = [bytes(byte_of[sign] for sign in name) for name in names]
        known = set(pieces)
        pieces += [single for single in map(bytes, zip(range(256), strict=True)) if single not in known]
        self.tokens: Sequence[bytes] = [*(name.encode() for name in SPECIALS), *pieces]
        self._tokenizer = tokenizer
        self._ids = {piece: len(SPECIALS) + place for place, piece in enumerate(pieces)}
        self._longest = max(map(len, pieces))

    def __call__(self, text: str) -> list[int]:
        """Whole words as the tokenizer writes them, the rest by the longest pieces that fit. Never fails."""
        ids: list[int] = []
        for part in re.findall(r" [^ ]+| |[^ ]+", text):
            word = part.removeprefix(" ")
            whole = word and word != part and word == normalise(word)
            written = self._tokenizer.word_ids([word])[word] if whole else [UNK]
            ids += self._spelt(part.encode()) if UNK in written else written
        return ids

    def _spelt(self, text: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(text):
            ends = range(min(len(text), at + self._longest), at, -1)
            end = next(end for end in ends if text[at:end] in self._ids)
            ids.append(self._ids[text[at:end]])
            at = end
        return ids


def _byte_alphabet() -> dict[str, int]:
    """The sign that stands for each byte in a byte-level vocabulary (Radford et al. 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = sorted(set(range(256)).difference(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
