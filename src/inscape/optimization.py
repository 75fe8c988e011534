"""How weights move: the settings of a training, its learning rate, its optimizer, its average of weights.

Choices the plan leaves open. Schedule: linear warm-up, then a cosine that ends at 0. Weight decay: on matrices only,
not on biases, norms and embeddings. EMA: the decay is warmed up, so that a short run's average is not mostly its start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from inscape.batched_muon import BatchedMuon
from inscape.device import PRECISIONS

__all__ = ["FitConfig", "WeightPairs", "ema_decay_at", "learning_rate", "make_optimizer", "update_ema"]


@dataclass(frozen=True)
class FitConfig:
    """How a model is trained. Defaults are the plan's."""

    steps: int  # optimizer steps in the whole run
    optimizer: str = "adamw"  # adamw | muon (matrices by Muon, the rest by AdamW)
    lr: float = 2e-4  # peak learning rate
    beta1: float = 0.9  # AdamW's decay of the mean gradient
    beta2: float = 0.95  # AdamW's decay of the mean squared gradient
    weight_decay: float = 0.01  # decoupled decay of matrices, times the learning rate, a step
    warmup_steps: int = 0  # steps of linear warm-up; the plan's full size takes 1000
    hold: float = 0.0  # share of the steps after the warm-up that keep the peak rate before it falls
    accumulate: int = 1  # batches whose mean gradient makes one step
    clip_norm: float = 1.0  # largest gradient norm; 0 = never clip
    ema_decay: float = 0.999  # decay of the average of weights, a step; 0 = the weights themselves
    precision: str = "auto"  # auto | float32 | bfloat16: what matrix products are autocast to
    compile: bool = False  # torch.compile the model's forward
    parallel: str = "replicate"  # replicate | shard: what each of several processes holds, all weights or some rows
    log_every: int = 10  # steps between training lines in the log
    eval_every: int = 0  # steps between evaluations; 0 = never
    checkpoint_every: int = 0  # steps between checkpoints; 0 = only at the end and on interruption
    keep_checkpoints: int = 2  # checkpoints kept on disk

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "keep_checkpoints"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("weight_decay", "clip_norm", "eval_every", "checkpoint_every"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("beta1", "beta2", "ema_decay", "hold"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
        _require(self.optimizer in ("adamw", "muon"), "optimizer", self.optimizer, "adamw | muon")
        _require(self.parallel in ("replicate", "shard"), "parallel", self.parallel, "replicate | shard")
        _require(not (self.compile and self.parallel == "shard"), "compile", True, "false with parallel=shard")
        _require(self.lr > 0, "lr", self.lr, "above 0")
        _require(0 <= self.warmup_steps <= self.steps, "warmup_steps", self.warmup_steps, f"0 to steps={self.steps}")
        _require(self.precision in PRECISIONS, "precision", self.precision, " | ".join(PRECISIONS))


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r} is out of range; allowed: {allowed}")


def learning_rate(config: FitConfig, step: int) -> float:
    """The learning rate of step `step` (from 0): a line up to `config.lr`, held there, then half a cosine down to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    passed = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    fallen = max(0.0, passed - config.hold) / (1 - config.hold)
    return config.lr * 0.5 * (1 + math.cos(math.pi * fallen))


def make_optimizer(
    model: nn.Module, config: FitConfig, muon: Callable[..., torch.optim.Optimizer] = BatchedMuon
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused where torch has a fused kernel; or Muon for matrices and AdamW for the
    rest. muon: what makes Muon, where the matrices are not plain ones.

    Weight decay applies to parameters of two or more dimensions that are not embedding tables. A model may have a
    mapping `learning_rate_shares` from the beginning of a parameter's name to the share of the rate that it learns at;
    groups then carry that share as "lr_share". ValueError for shares with Muon, or one that is out of range.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hidden = _hidden_matrices(model) if config.optimizer == "muon" else set()
    matrices = [p for p in trained if id(p) in hidden]
    shares = _learning_rate_shares(model, config)
    groups: list[dict[str, Any]] = []
    for share in dict.fromkeys(shares.values()):
        own = [p for p in trained if shares[id(p)] == share]
        decayed = [p for p in own if p.ndim >= 2 and id(p) not in tables | hidden]
        plain = [p for p in own if p.ndim < 2 or id(p) in tables]
        groups.append({"params": decayed, "weight_decay": config.weight_decay, "lr_share": share})
        groups.append({"params": plain, "weight_decay": 0.0, "lr_share": share})
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=all(p.device.type in ("cpu", "cuda") for p in trained),
    )
    if not matrices:
        return adamw
    return MuonAndAdamW(
        muon(matrices, lr=config.lr, weight_decay=config.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        adamw,
    )


def _learning_rate_shares(model: nn.Module, config: FitConfig) -> dict[int, float]:
    """Of each trained parameter, by its id."""
    wanted: Mapping[str, float] = getattr(model, "learning_rate_shares", {})
    if any(not 0 < share < math.inf for share in wanted.values()):
        raise ValueError(f"shares of the learning rate {dict(wanted)} are out of range; allowed: above 0")
    if wanted and config.optimizer == "muon":
        raise ValueError(
            "optimizer=muon knows one learning rate; use adamw where parts of a model learn at different ones"
        )
    return {
        id(p): next((share for start, share in wanted.items() if name.startswith(start)), 1.0)
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _hidden_matrices(model: nn.Module) -> set[int]:
    """Weights of linear maps, but for those that end in logits: what Muon's update is meant for."""
    logits = {id(module.weight) for name, module in model.named_modules() if name.endswith("logits")}
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)} - logits


@final
class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers behind the interface of one: they share its groups and its state."""

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.AdamW) -> None:
        self.parts = (muon, adamw)
        self._muon_groups = len(muon.param_groups)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        for part, groups in zip(
            self.parts, (self.param_groups[: self._muon_groups], self.param_groups[self._muon_groups :]), strict=True
        ):
            part.param_groups, part.state = groups, self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; the parts then share what was loaded."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of each."""
        for part in self.parts:
            part.step()


def ema_decay_at(config: FitConfig, step: int) -> float:
    """The EMA's decay in step `step` (from 0): min(d, (1 + step) / (10 + step))."""
    return min(config.ema_decay, (1 + step) / (10 + step))


def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * model; buffers are copied."""
    WeightPairs.of(ema, model).update(decay)


class WeightPairs(NamedTuple):
    """The tensors of an average and of its model, found once: walking the module trees costs more than the sum."""

    averages: list[Tensor]
    weights: list[Tensor]
    average_buffers: list[Tensor]
    buffers: list[Tensor]

    @classmethod
    def of(cls, ema: nn.Module, model: nn.Module) -> WeightPairs:
        """The pairs of two modules of one shape."""
        return cls(list(ema.parameters()), list(model.parameters()), list(ema.buffers()), list(model.buffers()))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """averages <- decay * averages + (1 - decay) * weights, in one call for all; buffers are copied."""
        torch._foreach_lerp_(self.averages, self.weights, 1.0 - decay)
        if self.buffers:
            torch._foreach_copy_(self.average_buffers, self.buffers)
