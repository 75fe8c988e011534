"""What a study is made of: questions with gates, in an order.

A `Phase` is one question: a config, a gate decided before the measurement, and a `run` that measures.
A `Study` is its phases. Both are plain values; `core.runner` does the work.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inscape.core.config import load_preset, preset_names, with_changes
from inscape.core.estimate import Estimate
from inscape.core.gate import Gate
from inscape.core.rundir import RunDir

__all__ = ["SMOKE", "Context", "Phase", "Remedy", "Study"]

SMOKE = "smoke"  # the preset of the tests: its verdicts open nothing

OverSeeds = Callable[[Mapping[int, Mapping[str, Estimate]]], Mapping[str, Estimate]]  # seed -> its metrics


@dataclass(frozen=True)
class Remedy:
    """What to try when one of the metrics `when` was not passed: make `change`.

    The plan's "if not" lines, made executable; the `why` of one that is not the plan's begins with "ours".
    """

    when: tuple[str, ...]
    change: Mapping[str, Any]  # dotted config keys -> the new value, or a function of the present one
    why: str

    def changes(self, config: Any) -> dict[str, Any]:
        """The change as values for this config: presets differ in size, so "halve it" is another number in each."""
        return {key: new(_value(config, key)) if callable(new) else new for key, new in self.change.items()}

    def applied_to(self, config: Any) -> Any:
        """The config with the change made; ValueError if it is out of range."""
        return with_changes(config, self.changes(config))


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


@dataclass(frozen=True)
class Context:
    """What a phase's `run` is given."""

    config: Any  # an instance of the phase's config
    seed: int
    device: str  # auto | cpu | cuda
    preset: str
    run: RunDir  # where this run writes
    inputs: Mapping[str, RunDir]  # the run of each needed phase, by code


@dataclass(frozen=True)
class Phase:
    """One question with a gate.

    run(context) -> metrics. It measures, draws figures into `context.run.figures`, and never looks at the gate.
    across_seeds judges `spread_of_<metric>`: largest minus smallest value of a metric over the declared seeds; and what
    over_seeds makes of the metrics of all of them, where seeds and not sentences are what is counted.
    """

    code: str  # as typed: visual.P1
    name: str
    question: str
    config: type
    presets: Path  # YAML: preset name -> what differs from the config's defaults
    gate: Gate
    run: Callable[[Context], Mapping[str, Estimate]]
    needs: tuple[str, ...] = ()
    mends: str = ""  # an earlier phase that this one is the answer to: it opens when that has run and has not passed
    mends_only: tuple[str, ...] = ()  # and only where it missed one of these: other misses are not what this answers
    seeds: tuple[int, ...] = (0,)
    corpus_seeds: tuple[int, ...] = ()  # on a corpus that the user names (`data.*`); empty: `seeds` there too
    remedies: tuple[Remedy, ...] = ()
    across_seeds: Gate | None = None
    over_seeds: OverSeeds | None = None
    failure_means: str = ""  # for the report: what a negative result would tell us
    check: Callable[[Any], None] | None = None  # ValueError on what a config names and is not there, before any run
    gate_for: Callable[[Any], Gate] | None = None  # another gate for other configs: a function of the config alone
    several: bool = False  # whether several processes may call `run` at once: none of its files decides anything
    skip: Callable[[Any], str] | None = None  # why the phase has nothing to ask of this config; empty: it has
    beside: Callable[[Any], Sequence[str]] | None = None  # lines shown under a config, such as its plan's table
    supplied: Callable[[Any], bool] | None = None  # whether a config names what `needs` would give: it builds on no run

    def __post_init__(self) -> None:
        for seeds in (self.seeds, self.corpus_seeds or self.seeds):
            if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
                raise ValueError(f"phase {self.code}: seeds {seeds}: wanted at least one, all different, none below 0")
        if self.across_seeds and len(self.seeds) == 1:
            raise ValueError(f"phase {self.code}: across_seeds would always pass over the one seed {self.seeds}")

    def on(self, corpus: Sequence[str]) -> "Phase":
        """The phase as it is declared for the corpus that these overrides name: there `corpus_seeds` are the seeds."""
        if not corpus or not self.corpus_seeds:
            return self
        across = self.across_seeds if len(self.corpus_seeds) > 1 else None
        return replace(self, seeds=self.corpus_seeds, corpus_seeds=(), across_seeds=across)

    def preset(self, name: str, corpus: Sequence[str] = ()) -> Any:
        """The declared config of preset `name` on the corpus that these overrides name; they are yet to be applied."""
        return load_preset(self.config, self.presets, name, corpus)

    def gate_of(self, config: Any) -> Gate:
        """The gate that holds for this config, fixed before the measurement."""
        return self.gate_for(config) if self.gate_for else self.gate

    def builds_on(self, config: Any) -> tuple[str, ...]:
        """Phases of which a run under this config reads one run each; what opens the gate is `needs` all the same."""
        needs = () if self.supplied and self.supplied(config) else self.needs
        return (*needs, *filter(None, (self.mends,)))

    @property
    def preset_names(self) -> tuple[str, ...]:
        """Declared presets, in the file's order."""
        return preset_names(self.presets)


@dataclass(frozen=True)
class Study:
    """A research programme: a hypothesis and the phases that test it, in order."""

    name: str
    title: str
    hypothesis: str
    phases: tuple[Phase, ...] = field(default_factory=tuple)

    def phase(self, code: str) -> Phase:
        """The phase with this code; ValueError names those there are."""
        for phase in self.phases:
            if phase.code.lower() == code.lower():
                return phase
        raise ValueError(
            f"study {self.name} has no phase {code!r}; there are: {', '.join(p.code for p in self.phases)}"
        )
