"""The benchmark measures what it says, on a tiny model: the same answers both ways, and figures that add up."""

import json

import pytest

pytest.importorskip("transformers")
from inscape import bench
from inscape.bench import prompt_compression
from inscape.bench.prompt_compression import run


def test_both_ways_give_the_same_answers_and_are_timed_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = iter(range(1000))
    monkeypatch.setattr(prompt_compression.time, "perf_counter", lambda: float(next(clock)))
    timed = prompt_compression._timed
    monkeypatch.setattr(
        prompt_compression, "_timed", lambda way, device: order.append(way.__name__) or timed(way, device)
    )
    found = run("tiny", prompts=6, new_tokens=8, batch=4, turns=3, device="cpu")
    assert order == ["plain", "batched", "batched", "plain", "plain", "batched"]
    assert (found["model"], found["prompts"], found["turns"], found["same_answers"]) == ("tiny", 6, 3, 1.0)
    assert found["mean_prompt_tokens"] > 100, "a sign is a token here"
    assert 1 <= found["mean_new_tokens"] <= 8
    tokens = 6 * found["mean_new_tokens"]
    assert found["plain_tokens_per_second"] == pytest.approx(tokens), "each turn took one second"
    assert found["batched_tokens_per_second"] == pytest.approx(tokens)
    assert found["speedup"] == found["worst_turn_speedup"] == pytest.approx(1.0)
    json.dumps(found, allow_nan=False)


def test_another_model_is_named_after_a_colon(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(prompt_compression, "run", lambda *model: asked.append(model) or {})
    bench.measure("prompt-compression")
    bench.measure("prompt-compression:some/model")
    assert asked == [(), ("some/model",)]
    with pytest.raises(ValueError, match=r"there are: .*prompt-compression"):
        bench.measure("prompt")
    with pytest.raises(ValueError, match="there is no benchmark 'codec:tiny'"):
        bench.measure("codec:tiny")
