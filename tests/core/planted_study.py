"""Tiny studies to run in tests: three phases whose measurement is planted by their config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inscape.core.estimate import Estimate, bootstrap_mean, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, run_study
from inscape.core.standing import is_open, standing
from inscape.core.study import Context, Phase, Study

PRESETS = "smoke: {n: 4}\nquick:\nfull: {n: 200}\n"


@dataclass(frozen=True)
class Data:
    text: str = ""  # the corpus
    size: int = 10


@dataclass(frozen=True)
class Config:
    signal: float = 0.9  # planted mean of what is measured
    drift: float = 0.0  # by which each seed's mean differs from the last
    n: int = 50  # scenes
    data: Data = field(default_factory=Data)

    def __post_init__(self) -> None:
        if not 0 <= self.signal <= 2:
            raise ValueError(f"signal={self.signal}: wanted 0 to 2")


def measure(context: Context) -> Mapping[str, Estimate]:
    mean = context.config.signal + context.seed * context.config.drift
    scores = [mean + 0.01 * (-1) ** i for i in range(context.config.n)]
    return {"recall": bootstrap_mean(scores, "scenes", seed=context.seed), "leak": exact(0.0, 4, "scenes")}


def failing(context: Context) -> Mapping[str, Estimate]:
    return {"recall": exact(0.1, 50, "scenes"), "leak": exact(0.0, 4, "scenes")}


GATE = Gate([Criterion("recall", at_least=0.8), Criterion("leak", at_most=0.1, role="control")])


@dataclass
class World:
    """A study of phases in a folder of its own, and what was said while it ran."""

    study: Study
    root: Path

    def run(self, *codes: str, **wish: Any) -> list[RunDir]:
        self.said: list[str] = []
        self.reported: list[Path] = []
        phases = [self.study.phase(code) for code in codes] or self.study.phases
        request = Request(root=self.root, **wish)
        return run_study(self.study, phases, request, self.said.append, lambda run: self.reported.append(run.path))

    def standing(
        self, code: str = "P1", preset: str = "quick", corpus: tuple[str, ...] = ()
    ) -> tuple[bool, tuple[str, ...]]:
        return standing(self.study, self.study.phase(code), preset, self.root, corpus)[:2]

    def may_run(self, code: str, preset: str = "quick", corpus: tuple[str, ...] = ()) -> bool:
        return is_open(self.study, self.study.phase(code), preset, self.root, corpus).open

    def files(self) -> set[str]:
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*")} if self.root.exists() else set()

    def with_phase(self, **changes: Any) -> "World":
        """The same folder under a study whose P1 was changed afterwards."""
        first, *others = self.study.phases
        return World(replace(self.study, phases=(replace(first, **changes), *others)), self.root)


MakeWorld = Callable[..., World]


def mended_world(folder: Path, **first: Any) -> World:
    """The same, and P2 is there to mend P1."""
    w = make_world(folder, **first)
    one, two, _ = w.study.phases
    return World(replace(w.study, phases=(one, replace(two, needs=(), mends="P1"))), w.root)


def make_world(folder: Path, **first: Any) -> World:
    """P1 (with the fields `first`), then P2 and P3 that need the one before; presets and runs are kept in `folder`."""
    presets = folder / "presets.yaml"
    planted = {"config": Config, "presets": presets, "gate": GATE, "run": measure}
    phases = (
        Phase("P1", "first", "Is it so?", **planted | first),
        Phase("P2", "second", "Is it so?", **planted, needs=("P1",)),
        Phase("P3", "third", "Is it so?", **planted, needs=("P2",)),
    )
    return World(Study("toy", "Toy", "It is so.", phases), folder / "runs")
