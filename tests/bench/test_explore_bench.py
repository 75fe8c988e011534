"""The page's bench, small: every figure is there, and nothing went wrong."""

import pytest

from inscape.bench.explore import run


def test_a_few_visitors_for_a_moment():
    found = run(clients=3, seconds=1.5, touches=3)
    assert found["errors"] == 0
    assert found["answers"] >= 6
    assert found["page kB"] < found["page kB limit"]
    assert 0 < found["touch ms, median"] <= found["touch ms, 95 %"]
    assert found["typing ms, 95 %"] == pytest.approx(found["typing ms, 95 %"]), "a number"
