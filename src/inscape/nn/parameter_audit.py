"""What is trained, what is frozen because it is pretrained, and what is frozen and random by mistake.

The mistake is easy and silent: a call that freezes "the model" and frees some adapters, such as peft's
`get_peft_model`, also freezes the freshly made layers that it does not know of. They stay random for ever, the loss
still falls a little, and a run of a week measures a random map. So every parameter is accounted for before training
starts, and a run with one that is random and frozen refuses to start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

__all__ = ["Audit", "AuditedParameter", "audit", "check", "gradient_reach"]

NAMED = 8  # most parameters that one message names


class AuditedParameter(NamedTuple):
    """One parameter tensor; shared ones are counted once."""

    name: str
    part: str  # the top-level part it belongs to
    kind: str  # "pretrained-frozen", "trained" or "random-frozen"
    size: int  # numbers in it


class Audit(NamedTuple):
    """Every parameter of a run."""

    parameters: tuple[AuditedParameter, ...]

    def by_kind(self) -> dict[str, int]:
        """How many numbers are of each kind; all three are named."""
        counts = Counter({"pretrained-frozen": 0, "trained": 0, "random-frozen": 0})
        for parameter in self.parameters:
            counts[parameter.kind] += parameter.size
        return dict(counts)

    def by_part(self) -> dict[str, dict[str, int]]:
        """The same for each top-level part, without the kinds that it has none of."""
        parts: dict[str, Counter[str]] = {}
        for parameter in self.parameters:
            parts.setdefault(parameter.part, Counter())[parameter.kind] += parameter.size
        return {part: dict(counts) for part, counts in parts.items()}


def audit(trained: nn.Module, *, pretrained: Mapping[str, nn.Module]) -> Audit:
    """Every parameter of freshly made modules and of the pretrained ones.

    trained: holds what was freshly made, each of its children a part; what it shares with a pretrained module counts as
    pretrained. pretrained: by name, modules whose weights were all loaded. Whatever takes gradients is "trained".
    """
    found: list[AuditedParameter] = []
    seen: set[int] = set()
    sources = [(part, f"{part}.", "pretrained-frozen", module) for part, module in pretrained.items()]
    for part, prefix, frozen, module in [*sources, ("", "", "random-frozen", trained)]:
        for name, parameter in module.named_parameters():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            kind = "trained" if parameter.requires_grad else frozen
            found.append(AuditedParameter(prefix + name, part or name.partition(".")[0], kind, parameter.numel()))
    return Audit(tuple(found))


def check(audit: Audit) -> None:
    """ValueError in one line that names what is random and frozen, or if nothing is trained."""
    stuck = [parameter.name for parameter in audit.parameters if parameter.kind == "random-frozen"]
    if stuck:
        more = f" and {len(stuck) - NAMED} more" if len(stuck) > NAMED else ""
        raise ValueError(
            f"{len(stuck)} freshly made parameters would stay random, since they take no gradient: "
            f"{', '.join(stuck[:NAMED])}{more}; set requires_grad on them, or load them and name them as pretrained"
        )
    if not audit.by_kind()["trained"]:
        raise ValueError("no parameter takes a gradient, so there is nothing to train; set requires_grad on some")


def gradient_reach(trained: nn.Module) -> tuple[str, ...]:
    """After one backward pass: names of trained parameters that got no gradient, and so can never move.

    A gradient of zero is one: behind a factor that starts at zero it is right at the first step. None means that the
    loss does not depend on the parameter at all.
    """
    return tuple(name for name, p in trained.named_parameters() if p.requires_grad and p.grad is None)
