"""Where the weights of a training lie: whole in every process, or a shard in each.

Replicated  every process holds all weights, their average and the optimizer's state; gradients are averaged in one
            exchange a step.
Sharded     every process holds its rows of every tensor, and of gradients, average and optimizer state: FSDP2 of torch
            (Zhao et al. 2023), its `fully_shard`. Whole tensors come together only while a step uses them.

What is gathered when, with shards: the loss terms of a step run inside the forward of one outer module, which FSDP2
gathers before and frees after the backward pass, so they may call any method of the model and read any weight. Blocks,
the elements of an nn.ModuleList that have parts of their own, are gathered one by one, each while it is called:

* a block's method other than forward that is called from outside is to be named in its class's `called_beside_forward`;
* what a block returns is not to be written to in place;
* every process must call the same blocks in the same order; where it may not, as in generating, `gathered` holds them
  together.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from inscape.checkpoint import Checkpoint, Slice, optimizer_tensors, restore_optimizer, weights_of
from inscape.device import Processes
from inscape.muon_of_shards import MuonOfShards
from inscape.optimization import FitConfig, WeightPairs, make_optimizer

__all__ = ["LossTerms", "Replicated", "Sharded", "Weights", "blocks_of", "gathered", "hold_weights"]

# torch warns of a block that returns a view, lest somebody writes to it: nobody does to this one's keys and values.
VIEWS = r"FSDP2-wrapped module \(FSDPDecoderLayer\) returned a view"

LossTerms = Callable[[nn.Module, Any, int], Mapping[str, Tensor]]
Parts = dict[str, dict[str, Tensor | Slice]]


class Weights(Protocol):
    """The model of a training, the average of its weights, and its optimizer."""

    optimizer: torch.optim.Optimizer

    def terms(self, loss_terms: LossTerms, batch: Any, step: int) -> Mapping[str, Tensor]:
        """The loss terms on this process's slice of a batch."""
        ...

    def clip_gradients(self, largest: float) -> Tensor:
        """Average the gradients over the processes and clip them to norm `largest` (0: never); the norm before."""
        ...

    def update_average(self, decay: float) -> None:
        """average <- decay * average + (1 - decay) * weights."""
        ...

    @contextmanager
    def average(self) -> Iterator[nn.Module]:
        """The averaged model, whole in the first process; every process calls."""
        ...

    def parts(self) -> Parts:
        """What this process has to save: CPU tensors of model, ema and optim."""
        ...

    def restore(self, found: Checkpoint) -> None:
        """Take everything from a checkpoint; RuntimeError or ValueError if it is of another model."""
        ...

    def finish(self) -> nn.Module:
        """The average; it and the model that was given are whole afterwards, in every process. The last call."""
        ...


def hold_weights(model: nn.Module, config: FitConfig, processes: Processes) -> Weights:
    """The weights as `config.parallel` wants them; alone, a process holds them whole.

    Every process begins with the first one's. ValueError for what cannot be sharded.
    """
    if config.parallel == "shard" and processes.world > 1:
        return Sharded(model, config, processes)
    return Replicated(model, config, processes)


def _all_tensors(*modules: nn.Module) -> list[Tensor]:
    return [tensor.detach() for module in modules for tensor in (*module.parameters(), *module.buffers())]


@final
class Replicated:
    """All weights in every process."""

    def __init__(self, model: nn.Module, config: FitConfig, processes: Processes) -> None:
        self._model, self._processes = model, processes
        processes.broadcast(_all_tensors(model))
        self._average = copy.deepcopy(model).eval().requires_grad_(False)
        self._pairs = WeightPairs.of(self._average, model)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(model, config)

    def terms(self, loss_terms: LossTerms, batch: Any, step: int) -> Mapping[str, Tensor]:
        return loss_terms(self._model, batch, step)

    def clip_gradients(self, largest: float) -> Tensor:
        self._processes.average_gradients(self._trained)
        return nn.utils.clip_grad_norm_(self._trained, largest or math.inf)

    def update_average(self, decay: float) -> None:
        self._pairs.update(decay)

    @contextmanager
    def average(self) -> Iterator[nn.Module]:
        yield self._average

    def parts(self) -> Parts:
        if not self._processes.first:
            return {"model": {}, "ema": {}, "optim": {}}
        return {
            "model": {**weights_of(self._model)},
            "ema": {**weights_of(self._average)},
            "optim": {**optimizer_tensors(self.optimizer, self._model)},
        }

    def restore(self, found: Checkpoint) -> None:
        self._model.load_state_dict(found.model)
        self._average.load_state_dict(found.ema)
        restore_optimizer(self.optimizer, self._model, found.optim)

    def finish(self) -> nn.Module:
        return self._average


@final
class _Step(nn.Module):
    """The loss terms of a step as one forward: within it, FSDP2 holds together what is not a block's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss_terms: LossTerms, batch: Any, step: int) -> dict[str, Tensor]:
        return dict(loss_terms(self.model, batch, step))


@final
class Sharded:
    """Some rows of every weight in each process.

    The model that was given lends its weights, and is empty until `finish` gives them back.
    """

    def __init__(self, model: nn.Module, config: FitConfig, processes: Processes) -> None:
        _check_shardable(model)
        self._given, self._processes = model, processes
        processes.broadcast(_all_tensors(model))
        lent: dict[int, Any] = {id(p): nn.Parameter(p.data, p.requires_grad) for p in model.parameters()}
        self._model = copy.deepcopy(model, lent)
        _empty(model)
        self._whole_average = copy.deepcopy(model).eval().requires_grad_(False)
        self._step = _shard(self._model, processes)
        self._weights: list[Any] = list(self._model.parameters())  # DTensors
        self._average: list[Any] = [weight.detach().clone() for weight in self._weights]
        self._pairs = WeightPairs(
            [average.to_local() for average in self._average],
            [weight.detach().to_local() for weight in self._weights],
            list(self._whole_average.buffers()),
            list(self._model.buffers()),
        )
        self.optimizer = make_optimizer(self._model, config, MuonOfShards)

    def terms(self, loss_terms: LossTerms, batch: Any, step: int) -> Mapping[str, Tensor]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=VIEWS)
            return self._step(loss_terms, batch, step)

    @torch.no_grad()
    def clip_gradients(self, largest: float) -> Tensor:
        gradients = [p.grad.to_local() for p in self._weights if p.grad is not None]  # averaged by FSDP2 already
        norm = self._processes.sum(torch.stack(torch._foreach_norm(gradients)).square().sum()).sqrt()
        if largest:
            torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def update_average(self, decay: float) -> None:
        self._pairs.update(decay)

    @contextmanager
    def average(self) -> Iterator[nn.Module]:
        _fill(self._whole_average, self._average, keep=self._processes.first)
        yield self._whole_average
        _empty(self._whole_average)

    def parts(self) -> Parts:
        named = dict(self._model.named_parameters(remove_duplicate=False))
        average_of = {id(weight): average for weight, average in zip(self._weights, self._average, strict=True)}
        ema = {name: average_of[id(weight)] for name, weight in named.items()}
        state = optimizer_tensors(self.optimizer, self._model, lambda value: value)
        return {
            "model": self._slices(self._model.state_dict()),
            "ema": self._slices(self._whole_average.state_dict() | ema),
            "optim": self._slices(state),
        }

    def _slices(self, tensors: Mapping[str, Any]) -> dict[str, Tensor | Slice]:
        """This process's rows, and what every process has whole."""
        found: dict[str, Tensor | Slice] = {}
        for name, value in tensors.items():
            mine = value.detach() if value.ndim == 0 or not hasattr(value, "to_local") else value.detach().to_local()
            mine_cpu = mine.to("cpu", copy=True).contiguous()
            if not hasattr(value, "to_local"):
                found[name] = mine_cpu
            elif len(mine_cpu):
                found[name] = Slice(mine_cpu, self._first_row(len(value)), len(value))
        return found

    def _first_row(self, total: int) -> int:
        """Rows are dealt out as torch.chunk does: equal numbers from the first process on, the last ones have fewer."""
        return min(total, self._processes.rank * math.ceil(total / self._processes.world))

    def restore(self, found: Checkpoint) -> None:
        named = dict(self._model.named_parameters(remove_duplicate=False))
        average_of = {id(weight): average for weight, average in zip(self._weights, self._average, strict=True)}
        with torch.no_grad():
            self._take(found.model, self._model.state_dict())
            ema = {name: average_of[id(weight)] for name, weight in named.items()}
            self._take(found.ema, self._whole_average.state_dict() | ema)
        optim = {key: self._laid_out(value, named.get(key.split("/", 1)[1])) for key, value in found.optim.items()}
        restore_optimizer(self.optimizer, self._model, optim)

    def _take(self, whole: Mapping[str, Tensor], into: Mapping[str, Any]) -> None:
        if whole.keys() != into.keys():
            raise ValueError(f"it has other weights: {', '.join(sorted(whole.keys() ^ into.keys()))}")
        for name, value in into.items():
            if value.shape != whole[name].shape:
                raise ValueError(f"{name} has the shape {tuple(whole[name].shape)} instead of {tuple(value.shape)}")
            self._copy_rows(whole[name], value)

    def _copy_rows(self, whole: Tensor, into: Any) -> None:
        if not hasattr(into, "to_local"):
            into.copy_(whole)
            return
        mine, first = into.detach().to_local(), self._first_row(len(whole))
        mine.copy_(whole[first : first + len(mine)])

    def _laid_out(self, whole: Tensor, like: Any) -> Tensor:
        """The tensor as a shard in the layout of the weight `like`; a number, or a stranger's, stays as it is."""
        if like is None or like.shape != whole.shape:
            return whole
        sharded = torch.empty_like(like.detach(), dtype=whole.dtype)
        self._copy_rows(whole, sharded)
        return sharded

    def finish(self) -> nn.Module:
        _fill(self._given, self._weights, keep=True)
        for given, own in zip(self._given.buffers(), self._model.buffers(), strict=True):
            given.data.copy_(own)
        average = self._whole_average
        _fill(average, self._average, keep=True)
        vars(self).clear()  # shards refer to the processes' group, which would outlive the meeting
        return average


def _check_shardable(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise ValueError(f"parameter {name} is one number and has no rows to split; use parallel=replicate")


def _shard(model: nn.Module, processes: Processes) -> nn.Module:
    """The model's blocks and the rest of it, split over the processes; returns the module that takes a step."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = processes.mesh()
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh)
        for method in getattr(block, "called_beside_forward", ()):
            register_fsdp_forward_method(block, method)
    step = _Step(model)
    fully_shard(step, mesh=mesh)
    return step


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """What is gathered by itself, inner blocks first: the elements of module lists that have parts of their own.

    Not one that shares a weight with what is outside of it: that weight would have two places.
    """
    holders: dict[nn.Parameter, set[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(parameter, set()).add(module)
    found: dict[nn.Module, None] = {}
    for module in model.modules():
        for element in module if isinstance(module, nn.ModuleList) else ():
            inside = set(element.modules())
            parameters = list(element.parameters())
            alone = all(holders[parameter] <= inside for parameter in parameters)
            if parameters and alone and len(inside) > 1 and not isinstance(element, (nn.ModuleList, nn.ModuleDict)):
                found[element] = None
    return list(found)[::-1]


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Hold all blocks of a sharded model together, for calls in which the processes may differ; every process enters.

    Without shards there is nothing to do.
    """
    blocks: list[Any] = [module for module in model.modules() if hasattr(module, "set_reshard_after_forward")]
    for block in blocks:
        block.set_reshard_after_forward(False, recurse=False)
        block.unshard()
    try:
        yield
    finally:
        for block in blocks:
            block.set_reshard_after_forward(True, recurse=False)
            block.reshard()


def _empty(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)


def _fill(module: nn.Module, shards: list[Any], *, keep: bool) -> None:
    """Put the whole tensors into an emptied module, if this process is to keep them; every process calls."""
    for parameter, shard in zip(module.parameters(), shards, strict=True):
        whole = shard.detach().full_tensor()
        if keep:
            parameter.data = whole
