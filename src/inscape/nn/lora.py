"""Low-rank adapters on the linear maps of a language model that itself stays untouched.

Written here, not taken from peft: peft puts its layers into the model, and this package needs one frozen model that is
the encoder (with adapters), the teacher and the receiver (both without) within one training step. Here the adapters are
a small module of their own and reach the model through forward hooks that live as long as a `with` block. So the model
is shared, bit for bit itself outside the block, and checkpoints, EMA and optimizer of `inscape.train.fit` hold the
adapters alone: some megabytes instead of half a gigabyte.

Legend: I inputs and O outputs of one linear map, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["ATTENTION_AND_MLP", "LowRankAdapters", "LowRankMap", "linear_sizes"]

ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of Llama's layers


@final
class LowRankMap(nn.Module):
    """What is added to the output of one linear map: (alpha / R) B A x (Hu et al. 2021, LoRA, equation 3).

    As there, A starts random and B at zero: at first nothing is added.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down_RI = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
        self.up_OR = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        """The addition, in the type of the adapter's own weights (or of autocast)."""
        return functional.linear(functional.linear(x.to(self.down_RI.dtype), self.down_RI), self.up_OR * self.scale)


@final
class LowRankAdapters(nn.Module):
    """One `LowRankMap` for each linear map of a model that `sizes` names; see `linear_sizes`.

    Holds no reference to the model. alpha: the factor of the additions is alpha / rank; 2 rank if not given. ValueError
    if the rank is below 1.
    """

    def __init__(self, sizes: Mapping[str, Sequence[int]], *, rank: int, alpha: float | None = None) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank={rank} is out of range; allowed: 1 or more")
        alpha = 2.0 * rank if alpha is None else alpha
        self.maps = nn.ModuleDict(
            {_key(name): LowRankMap(inputs, outputs, rank, alpha) for name, (inputs, outputs) in sizes.items()}
        )

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model's linear maps carry the adapters; gradients flow back after it too.

        ValueError if the model lacks one of the linear maps, or has it in another size.
        """
        handles = []
        modules = dict(model.named_modules())
        try:
            for key, addition in self.maps.items():
                linear = modules.get(_name(key))
                assert isinstance(addition, LowRankMap)
                _check_fit(_name(key), linear, addition)
                handles.append(linear.register_forward_hook(_adding(addition)))  # type: ignore[union-attr]
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def add_into(self, model: nn.Module) -> None:
        """Add the adapters into the weights of the model's linear maps, for good. ValueError as in `applied`."""
        modules = dict(model.named_modules())
        found = {key: modules.get(_name(key)) for key in self.maps}
        for key, addition in self.maps.items():
            assert isinstance(addition, LowRankMap)
            _check_fit(_name(key), found[key], addition)
        for key, addition in self.maps.items():
            linear = found[key]
            assert isinstance(linear, nn.Linear)
            assert isinstance(addition, LowRankMap)
            linear.weight += (addition.scale * addition.up_OR @ addition.down_RI).to(linear.weight)


def linear_sizes(model: nn.Module, targets: Sequence[str] = ATTENTION_AND_MLP) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every linear map whose last name is among `targets`. ValueError if there is none."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    sizes = {n: (m.in_features, m.out_features) for n, m in linears.items() if n.rpartition(".")[2] in targets}
    if not sizes:
        found = ", ".join(sorted({name.rpartition(".")[2] for name in linears})) or "none"
        raise ValueError(f"no linear map of the model is called {' or '.join(targets)}; it has: {found}")
    return sizes


def _key(name: str) -> str:
    return name.replace(".", "/")  # a module's name may hold no dot


def _name(key: str) -> str:
    return key.replace("/", ".")


def _check_fit(name: str, linear: nn.Module | None, addition: LowRankMap) -> None:
    wanted = (addition.up_OR.shape[0], addition.down_RI.shape[1])
    found = tuple(linear.weight.shape) if isinstance(linear, nn.Linear) else None
    if found != wanted:
        raise ValueError(
            f"these adapters are of another model: {name} is {found or 'missing'} here and was {wanted} there; "
            "use the model they were trained on"
        )


def _adding(addition: LowRankMap) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        return output + addition(given[0]).to(output.dtype)

    return hook
