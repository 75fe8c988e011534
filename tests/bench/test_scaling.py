"""The arithmetic of scaling: closed forms, limits, and what is counted of the model against its formula."""

import json

import pytest

from inscape.bench import measure
from inscape.bench.scaling import Plan, arithmetic, encoder_plan, run
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig

TOY = Plan(
    parameters=1000,
    forward_flops=10.0,
    sentences=1000,
    processes=4,
    batch=5,
    tokens=3,
    flops=50.0,
    link=1000.0,
    latency=0.0,
    disk=100.0,
    generated=2.0,
)


def test_by_hand():
    found = arithmetic(TOY)
    assert found["steps"] == 50
    assert found["compute_seconds_a_step"] == pytest.approx(3 * 10 * 5 / 50)
    assert found["bytes_sent_a_step_and_process"] == pytest.approx(2 * 3 / 4 * 4000)
    assert found["exchange_seconds_a_step"] == pytest.approx(6.0)
    assert found["share_of_time_computing"] == pytest.approx(1 / 3)
    assert found["sentences_a_second"] == pytest.approx(20 / 9)
    assert found["hours"] == pytest.approx(50 * 9 / 3600)
    assert found["token_bytes_a_second_and_process"] == pytest.approx(5 * 3 * 8 / 9)
    assert found["cores_that_draw_the_corpus"] == pytest.approx(20 / 9 / 2)
    assert found["checkpoint_bytes"] == 16_000
    assert found["checkpoint_seconds"] == pytest.approx(160)
    assert found["state_bytes_a_process"] == 24_000


def test_shards_send_half_as_much_again_and_hold_a_share():
    whole, shard = arithmetic(TOY), arithmetic(TOY, shard=True)
    assert shard["bytes_sent_a_step_and_process"] == pytest.approx(1.5 * whole["bytes_sent_a_step_and_process"])
    assert shard["checkpoint_bytes"] == whole["checkpoint_bytes"]
    assert shard["checkpoint_bytes_a_process"] * 4 == pytest.approx(whole["checkpoint_bytes_a_process"])
    assert shard["state_bytes_a_process"] == pytest.approx(20_000 / 4)


def test_alone_nothing_is_sent():
    alone = arithmetic(Plan(1000, 10.0, processes=1, latency=1.0))
    assert alone["bytes_sent_a_step_and_process"] == alone["exchange_seconds_a_step"] == 0
    assert alone["share_of_time_computing"] == 1


def test_latency_counts_every_hop_of_the_ring():
    slow = arithmetic(Plan(1000, 10.0, processes=4, link=1e30, latency=0.5, messages=2))
    assert slow["exchange_seconds_a_step"] == pytest.approx(2 * 6 * 0.5)


@pytest.mark.parametrize(("field", "value"), [("processes", 0), ("link", -1.0), ("flops", float("inf"))])
def test_nonsense_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"^{field}={value} is out of range; allowed: above 0$"):
        Plan(**{"parameters": 1, "forward_flops": 1.0, field: value})


def test_the_encoder_is_counted():
    plan = encoder_plan()
    model = LatentEncoder(LatentEncoderConfig(positions="learned"))
    assert plan.parameters == sum(parameter.numel() for parameter in model.parameters())
    # Each weight of a layer multiplies and adds once for each token; attention comes on top, the head paints one grid.
    layers = sum(p.numel() for p in model.get_submodule("text_encoder.layers").parameters() if p.ndim == 2)
    assert plan.forward_flops > 2 * layers * plan.tokens
    a_token = encoder_plan(tokens=25).forward_flops - plan.forward_flops
    assert 2 * layers < a_token < 5 * layers


def test_the_measured_step_gives_the_rate_of_this_machine(tmp_path):
    file = tmp_path / "step.json"
    file.write_text(json.dumps({"ours_seconds": 0.5, "batch": 16}))
    found = run(file)
    assert found["measured: sentences_a_second"] == 32
    assert found["measured: days_of_one_process_for_all_sentences"] == pytest.approx(1e9 / 32 / 86_400)
    assert not any(key.startswith("measured") for key in run(tmp_path / "none"))


def test_it_is_a_benchmark_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert measure("scaling")["assumed"]["processes"] == 64
