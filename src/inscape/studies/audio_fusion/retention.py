"""What keeps a listener from harming the model's way with text.

Without audio a listener is exactly the frozen model: nothing can be forgotten there. What can be harmed is text that is
read while a sound is present: a question that has nothing to do with it, a conversation after a caption. Five variants:

    none       captions alone
    soft       KL(frozen || hearing) of the next word of other text, with a clip's sound present (Li & Hoiem 2016)
    fisher     movement of each weight times how much other text depends on it (EWC; Kirkpatrick et al. 2017)
    nullspace  gradients lose their part along the gradients of other text (OGD; Farajtabar et al. 2020)
    full       all three

Gradients of other text are taken once, at weights moved a little from their start: there most of them are exactly 0,
behind maps that begin at zero. Parameters with hardly more entries than there are gradients, such as gates, are not
projected: nothing of their own gradient would be left. Adam and Muon change what comes out of a projected gradient;
AdamW keeps most of it, and is what these trainings take.

Legend: B batch, N tokens, V vocabulary, P entries of one parameter, G gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inscape.data.epochs import drawn, positions_of
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.audio_fusion.language import begin_ids, other_texts
from inscape.studies.audio_fusion.listener import Listener, caption_states, hearing, side_by_side
from inscape.studies.audio_fusion.memory import in_batches
from inscape.studies.audio_fusion.sounds import Sounds, batch_of

if TYPE_CHECKING:
    from inscape.studies.audio_fusion.training import CaptionBatch

__all__ = ["RETENTIONS", "Retention", "moved", "text_ids", "text_losses"]

RETENTIONS = ("none", "soft", "fisher", "nullspace", "full")
TEXTS = 512  # sentences of other text that training may look at
GRADIENTS = 16  # gradients of other text: directions that are left alone, and samples of the Fisher information
READ_AT_ONCE = 64  # texts that the frozen model reads side by side
PROBE = 0.05  # how far weights are moved before the gradients of other text are taken, as a standard deviation
FISHER = 1000.0  # weight of fisher's term at retention_weight 1: the information of one text is about a thousandth


class _Text(NamedTuple):
    """Other text beside sounds it has nothing to do with."""

    features_BTF: Tensor
    heard_BT: Tensor
    ids_BN: Tensor
    own_BN: Tensor


@final
class Retention:
    """One variant, ready for a training."""

    def __init__(self, lm: LanguageModel, kind: str, weight: float, texts: Sequence[Sequence[int]], seed: int) -> None:
        self._lm, self._kind, self._weight, self._texts, self._seed = lm, kind, weight, texts, seed
        self._fisher: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}
        self._basis: dict[str, Tensor] = {}
        self._frozen: list[Tensor] = []

    @classmethod
    def of(
        cls, kind: str, weight: float, lm: LanguageModel, listener: Listener, sounds: Sounds, seed: int
    ) -> Retention:
        """The variant `kind` for an untrained listener, whose gradients on other text are taken here."""
        texts = text_ids(lm, other_texts(TEXTS, seed + 1)) if kind != "none" else []
        found = cls(lm, kind, weight, texts, seed)
        if kind in ("fisher", "nullspace", "full"):
            found._look(listener, sounds)
        return found

    def terms(self, listener: Listener, batch: CaptionBatch, step: int) -> dict[str, Tensor]:
        """The variant's terms for one step, weighted."""
        terms = {}
        if self._kind in ("soft", "full"):
            rows = drawn(self._seed, len(self._texts), positions_of(step, 0, 1, len(batch.ids_BN)))
            text = self._text([self._texts[i] for i in rows], batch.features_BTF, batch.heard_BT)
            frozen_MD = torch.cat([self._frozen_states()[i] for i in rows])
            terms["soft"] = self._weight * self._divergence(listener, text, frozen_MD)
        if self._kind in ("fisher", "full"):
            moved = [
                (self._fisher[name] * (p - self._anchor[name]).square()).sum()
                for name, p in listener.named_parameters()
                if name in self._fisher
            ]
            terms["fisher"] = FISHER * self._weight * torch.stack(moved).sum()
        return terms

    @contextmanager
    def projecting(self, listener: Listener) -> Iterator[None]:
        """Within, gradients lose their part along those of other text."""
        bases = self._basis if self._kind in ("nullspace", "full") else {}
        handles = [
            parameter.register_hook(_without(bases[name]))
            for name, parameter in listener.named_parameters()
            if name in bases
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _text(self, ids: Sequence[Sequence[int]], features_BTF: Tensor, heard_BT: Tensor) -> _Text:
        ids_BN, own_BN = side_by_side([], ids)
        return _Text(features_BTF, heard_BT, ids_BN.to(self._lm.device), own_BN.to(self._lm.device))

    @torch.no_grad()
    def _frozen_states(self) -> list[Tensor]:
        """What the frozen model makes of every text, (M, D) each, where a next token is told: computed at first use.

        Where memory suffices always in the same batches, so that a training that is continued gets the same to the last
        bit; else in halves.
        """

        def some(first: int, last: int) -> list[Tensor]:
            ids_BN, own_BN = side_by_side([], self._texts[first:last])
            states_BND = caption_states(self._lm, ids_BN.to(self._lm.device))
            lengths = own_BN.sum(1).tolist()
            return [states_ND[: n - 1].clone() for states_ND, n in zip(states_BND, lengths, strict=True)]

        if not self._frozen:
            self._frozen = in_batches(len(self._texts), READ_AT_ONCE, some)
        return self._frozen

    def _divergence(self, listener: Listener, text: _Text, frozen_MD: Tensor) -> Tensor:
        """KL(frozen || hearing) of the next token, nats a token."""
        with hearing(self._lm, listener, (text.features_BTF, text.heard_BT)):
            heard_MD = caption_states(self._lm, text.ids_BN)[:, :-1][text.own_BN[:, 1:]]
        heard_MV, frozen_MV = (self._log_chances_of(each) for each in (heard_MD, frozen_MD))
        return functional.kl_div(heard_MV, frozen_MV, log_target=True, reduction="batchmean")

    def _log_chances(self, listener: Listener | None, text: _Text) -> Tensor:
        with hearing(self._lm, listener, (text.features_BTF, text.heard_BT)):
            states_BND = caption_states(self._lm, text.ids_BN)
        return self._log_chances_of(states_BND)

    def _log_chances_of(self, states: Tensor) -> Tensor:
        return self._lm.model.get_output_embeddings()(states).float().log_softmax(-1)

    def _look(self, listener: Listener, sounds: Sounds) -> None:
        """The gradients of other text near the start, in eval mode: their squares' mean, and an orthonormal basis."""
        anchor = {name: p.detach().clone() for name, p in listener.named_parameters() if p.requires_grad}
        listener = moved(copy.deepcopy(listener).eval(), PROBE, self._seed)
        named = {name: p for name, p in listener.named_parameters() if p.requires_grad}
        rows = np.arange(GRADIENTS * 8)
        gradients: dict[str, list[Tensor]] = {name: [] for name in named}
        for at in range(0, len(rows), 8):
            some = [self._texts[i % len(self._texts)] for i in rows[at : at + 8]]
            text = self._text(some, *batch_of(sounds, rows[at : at + 8] % sounds.size))
            loss = _nll(self._log_chances(listener, text), text.ids_BN, text.own_BN).mean()
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            for name, gradient in zip(named, found, strict=True):
                if gradient is not None:
                    gradients[name].append(gradient.detach())
        for name, each in gradients.items():
            if not each or not any(bool(g.any()) for g in each):
                continue
            self._fisher[name] = torch.stack([g.square() for g in each]).mean(0)
            self._anchor[name] = anchor[name]
            if named[name].numel() > 2 * GRADIENTS:
                self._basis[name] = _orthonormal(torch.stack([g.flatten() for g in each]))


def moved(listener: Listener, by: float, seed: int) -> Listener:
    """The same listener with every trained weight moved at random, `by` the standard deviation of what is added."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in listener.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=draw).to(parameter.device))
    return listener


def text_ids(lm: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, begun as the tokenizer begins texts, and ended; what is first is not predicted."""
    return [[*begin_ids(lm), *lm.encode(text), lm.end_ids[0]] for text in texts]


@torch.no_grad()
def text_losses(
    lm: LanguageModel,
    listener: Listener | None,
    texts: Sequence[str],
    sounds: Sounds,
    batch: int,
    *,
    silent: bool = False,
) -> list[float]:
    """Nats a token of each text, read while the clip of its number is heard; without a listener by the frozen model.

    silent: the listener is there, and no frame of any clip.
    """
    ids = text_ids(lm, texts)
    reader = Retention(lm, "none", 0.0, ids, 0)

    def some(first: int, last: int) -> list[float]:
        features_BTF, mask_BT = batch_of(sounds, np.arange(first, last) % sounds.size)
        text = reader._text(ids[first:last], features_BTF, torch.zeros_like(mask_BT) if silent else mask_BT)
        return _nll(reader._log_chances(listener, text), text.ids_BN, text.own_BN).tolist()

    return in_batches(len(ids), batch, some)


def _nll(log_BNV: Tensor, ids_BN: Tensor, own_BN: Tensor) -> Tensor:
    """Nats a token of each text (B), its first sign not counted."""
    said_BN = log_BNV[:, :-1].gather(-1, ids_BN[:, 1:, None])[..., 0]
    counted_BN = own_BN[:, 1:]
    return -(said_BN * counted_BN).sum(1) / counted_BN.sum(1)


def _orthonormal(rows_GP: Tensor) -> Tensor:
    """Orthonormal rows that span the same space, those of no length left out."""
    _, values, basis_GP = torch.linalg.svd(rows_GP, full_matrices=False)
    return basis_GP[values > 1e-6 * values.max()]


def _without(basis_GP: Tensor) -> Any:
    def hook(gradient: Tensor) -> Tensor:
        flat_P = gradient.flatten()
        return (flat_P - basis_GP.T @ (basis_GP @ flat_P)).view_as(gradient)

    return hook
