"""Small curves as geometry: where the points lie in a box. The templates draw them, as SVG inside the page."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion

__all__ = ["NO_CURVE", "Curve", "Interval", "curve", "curves_of", "interval", "is_number"]

MOST_POINTS = 240
SPELT_OUT = {"lr": "learning rate", "grad_norm": "norm of the gradient", "rate": "steps per second"}
NO_CURVE = ("kind", "step", "total", "terms", "seconds")  # of a log line: they say which step and when
LOG_RATIO = 30.0  # a positive curve that spans more than this is drawn on a logarithmic axis


class Curve(NamedTuple):
    """A line in a box of `width` x `height`, with what its axes say."""

    title: str
    points: str  # "x,y x,y ...", as SVG wants them
    last: tuple[float, float]
    low: float
    high: float
    first_step: float
    last_step: float
    last_value: float
    n: int  # points before any were left out of the drawing
    logarithmic: bool
    width: int
    height: int


class Interval(NamedTuple):
    """An estimate against its bound, as positions in per cent of a strip."""

    low: float
    value: float
    high: float
    bound: float
    wanted_from: float
    wanted_to: float


def curve(title: str, values: Iterable[tuple[float, float]], width: int, height: int) -> Curve | None:
    """Values (x, y) as a curve; points that are not finite are left out, None if none is left."""
    pairs = [(x, y) for x, y in values if math.isfinite(x) and math.isfinite(y)]
    if not pairs:
        return None
    shown = _thin(pairs)
    low, high = min(y for _, y in pairs), max(y for _, y in pairs)
    logarithmic = low > 0 and high / low > LOG_RATIO
    lows, highs = (math.log(low), math.log(high)) if logarithmic else (low, high)
    margin = 3

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - pairs[0][0]) / ((pairs[-1][0] - pairs[0][0]) or 1.0) if len(pairs) > 1 else 0.5
        up = ((math.log(y) if logarithmic else y) - lows) / (highs - lows) if highs > lows else 0.5
        return round(margin + across * (width - 2 * margin), 1), round(height - margin - up * (height - 2 * margin), 1)

    spots = [place(x, y) for x, y in shown]
    points = " ".join(f"{x:g},{y:g}" for x, y in spots)
    ends = pairs[0][0], pairs[-1][0], pairs[-1][1]
    return Curve(title, points, spots[-1], low, high, *ends, len(pairs), logarithmic, width, height)


def curves_of(log: Sequence[Mapping[str, Any]], kind: str, width: int, height: int) -> list[Curve]:
    """One curve for each number that the log lines of `kind` hold, in the order in which they first appear."""
    series: dict[str, list[tuple[float, float]]] = {}
    for line in log:
        step = line.get("step")
        if line.get("kind") != kind or not is_number(step):
            continue
        terms = line.get("terms")
        flat = {"loss": line.get("loss")}
        flat |= {f"loss term {k}": v for k, v in terms.items()} if isinstance(terms, dict) else {}
        flat |= {k: v for k, v in line.items() if k not in NO_CURVE}
        for name, value in flat.items():
            if is_number(value):
                series.setdefault(SPELT_OUT.get(name, name), []).append((float(step), float(value)))
    curves = (curve(name, sorted(values), width, height) for name, values in series.items())
    return [c for c in curves if c]


def interval(estimate: Estimate | None, criterion: Criterion) -> Interval | None:
    """The estimate's interval and the criterion's bound on one strip; None if nothing was measured."""
    if estimate is None or not estimate.measured:
        return None
    ends = (estimate.low, estimate.high, criterion.bound)
    span = (max(ends) - min(ends)) or abs(criterion.bound) or 1.0
    start, scale = min(ends) - 0.2 * span, 100 / (1.4 * span)
    low, value, high, bound = (
        round((x - start) * scale, 1) for x in (estimate.low, estimate.value, estimate.high, criterion.bound)
    )
    wanted = (bound, 100.0) if criterion.at_least is not None else (0.0, bound)
    return Interval(low, value, high, bound, *wanted)


def _thin(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Few enough points to draw; of each stretch the lowest and the highest stay, so no peak is lost."""
    if len(pairs) <= MOST_POINTS:
        return list(pairs)
    size = math.ceil(len(pairs) / (MOST_POINTS // 2))
    stretches = (pairs[start : start + size] for start in range(0, len(pairs), size))
    kept = {point for s in stretches for point in (min(s, key=lambda p: p[1]), max(s, key=lambda p: p[1]))}
    return sorted(kept | {pairs[-1]})


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a finite number that fits a float, as one of 400 digits in a file does not."""
    largest = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest
