"""C3 and what it shares with C4 in planted and empty worlds: each cheat is caught by its own control, and the ways that
are set side by side are what they are called."""

import gc
import json
import weakref

import pytest
import torch
from tiny_questions import CONFIG, STUDY, begun, controls, ran, tiny_world

from inscape.compressors import kv_pruning, truncation
from inscape.compressors.adapter import Adapter
from inscape.compressors.controls import EmptyContext, Replay
from inscape.compressors.interface import Injected
from inscape.compressors.kv_pruning import KvPruning
from inscape.compressors.mean_pooled import MeanPooled
from inscape.compressors.memory_tokens import MemoryTokens
from inscape.compressors.pca import Pca
from inscape.compressors.quantised import Quantised
from inscape.compressors.truncation import EqualVectors
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.nn.row_generation import CachedPrompt
from inscape.studies.prompt_compression import asking, frontier, reconstruction, scoring, sequences, ways
from inscape.studies.prompt_compression.asking import Asked, AskingConfig
from inscape.studies.prompt_compression.frontier import Point, largest_ratio

# --- the gates on metrics ------------------------------------------------------------------------------------------

SHARED = {
    "replay_identical": (1, 0.9),
    "text_f1": (0.8, 0.05),
    "gain_of_context": (0.5, 0.0),
    "empty_f1_kept": (0.25, 0.85),
    "ratio_honoured": (1, 0.99),
    "travels_alone": (1, 0),
    "shuffled_gain": (0.0, 0.2),
    "equal_bits_honoured": (1, 0.99),
}
OF_C3 = SHARED | {
    "leaked_gain": (0.0, 0.2),
    "explained_gap": (0.01, 0.1),
    "ratio_keeping_90": (2, 1.5),
    "ratio_keeping_90_in_fewer_vectors": (4, 0),
}
OF_C4 = SHARED | {
    "tokens_per_vector": (4.1, 3.9),
    "f1_kept": (0.95, 0.5),
    "gain_over_truncation": (0.1, 0.0),
    "loss_over_first": (0.4, 1.0),
}

root = pytest.fixture(begun, scope="module")
world = pytest.fixture(tiny_world, scope="module")


@pytest.mark.parametrize(("gate", "worlds"), [(frontier.GATE, OF_C3), (sequences.GATE, OF_C4)])
def test_every_criterion_has_a_world_that_passes_and_one_that_does_not(gate, worlds) -> None:
    planted = {name: exact(good, 9, "contexts") for name, (good, _) in worlds.items()}
    assert gate.judge(planted).outcome is Outcome.PASS
    assert set(worlds) == {criterion.metric for criterion in gate.criteria}
    for criterion in gate.criteria:
        bad = Outcome.INVALID if criterion.role == "control" else Outcome.FAIL
        _, empty = worlds[criterion.metric]
        assert gate.judge(planted | {criterion.metric: exact(empty, 9, "contexts")}).outcome is bad
        unmeasured = {name: e for name, e in planted.items() if name != criterion.metric}
        assert gate.judge(unmeasured).outcome is not Outcome.PASS


@pytest.mark.parametrize("code", ["C3", "C4"])
def test_the_text_runs_f1_is_asked_for_only_where_it_can_be_wrong(code) -> None:
    phase = STUDY.phase(code)
    own, given = (phase.gate_of(phase.config(asking=AskingConfig(gold=gold))) for gold in ("own", "given"))
    assert {c.metric for c in given.criteria} - {c.metric for c in own.criteria} == {"text_f1"}
    assert given == phase.gate


# --- cheats, each caught by a control ------------------------------------------------------------------------------


def test_a_pruner_that_keeps_every_position_is_caught(root, monkeypatch) -> None:
    monkeypatch.setattr(kv_pruning, "vector_count", lambda tokens, ratio: tokens)
    run = ran(root, "C3", "ratios=[2.0]", "compressors=[kv_attention]")
    metrics = run.read_json(RunDir.METRICS)
    assert metrics["ratio_keeping_90_in_fewer_vectors"]["value"] == 2, "by what it says of itself it halves the context"
    assert metrics["ratio_honoured"]["value"] == 0
    assert controls(run)["ratio_honoured"] is Outcome.INVALID


def test_rows_wider_than_their_ratio_are_caught(world) -> None:
    lm, prompts, _ = world
    pca = Pca(4.0, wire="float16").fit(lm, [asking.ids_of(lm, p) for p in prompts], seed=0)
    told = scoring.answered(lm, pca, prompts, CONFIG)
    assert scoring.ratio_honoured(lm, pca, 4.0, prompts, told.places, told.numbers).value == 1
    wide = scoring.answered(lm, Pca(2.0).fit(lm, [asking.ids_of(lm, p) for p in prompts], seed=0), prompts, CONFIG)
    assert scoring.ratio_honoured(lm, pca, 4.0, prompts, wide.places, wide.numbers).value == 0


def test_a_codec_that_says_another_ratio_than_it_is_filed_under_is_caught(root, monkeypatch) -> None:
    makers = {
        "pca": lambda ratio, _: Pca(ratio / 2, wire="float16"),
        "pca_int4": lambda ratio, _: Quantised(Pca(ratio / 2, wire="float16"), 4),
        "truncation": lambda ratio, _: EqualVectors(ratio / 2),
    }
    for name, lying in makers.items():
        monkeypatch.setitem(ways.MAKERS, name, lying)
    run = ran(root, "C3", "ratios=[4.0]", f"compressors=[{','.join(makers)}]")
    points = {row["compressor"]: row["ratio_honoured"]["value"] for row in run.read_json("frontier.json")}
    assert points == dict.fromkeys(makers, 0)
    assert controls(run)["ratio_honoured"] is Outcome.INVALID


def test_components_of_too_few_rows_are_caught_wherever_a_pca_is_asked(root, monkeypatch) -> None:
    words = ("ratios=[4.0]", "train=400")
    run = ran(root, "C3", *words, "compressors=[pca_int8]")
    assert controls(run)["explained_gap"] is Outcome.PASS
    assert "explained_gap" not in controls(ran(root, "C3", *words, "compressors=[truncation]")), "nothing to ask of"
    fit = Pca.fit
    monkeypatch.setattr(Pca, "fit", lambda pca, lm, ids, **told: fit(pca, lm, [ids[0][:9], ids[1][:9]], **told))
    assert controls(ran(root, "C3", *words, "compressors=[pca_int8]"))["explained_gap"] is Outcome.INVALID


def test_projections_see_all_training_prompts_and_pooled_states_the_first_contexts(root, monkeypatch) -> None:
    seen: dict[str, int] = {}
    for kind in (Pca, MeanPooled):
        fit = kind.fit

        def counted(self, lm, ids, *, fit=fit, **told):
            seen[self.kind] = len(ids)
            return fit(self, lm, ids, **told)

        monkeypatch.setattr(kind, "fit", counted)
    ran(root, "C3", "ratios=[2.0]", "compressors=[pca,mean_pooled_states]", "train=24", "contexts=6")
    assert seen == {"pca": 24, "mean_pooled": 6}


@pytest.mark.parametrize("name", list(ways.MAKERS))
def test_every_way_feeds_what_its_ratio_says(name, world) -> None:
    lm, prompts, _ = world
    ids = {False: [asking.ids_of(lm, p) for p in prompts], True: [asking.context_of(lm, p) for p in prompts]}
    material = frontier.Material({}, ways.known_of(lm, prompts), ids, 0)
    way = frontier.fitted(lm, name, 4.0, material)
    told = scoring.answered(lm, way, prompts[:5], CONFIG)
    assert scoring.ratio_honoured(lm, way, 4.0, prompts[:5], told.places, told.numbers).value == 1
    if way.needs_context_only:
        assert told.places == [len(p.context_ids) // 4 for p in prompts[:5]]
    assert scoring.alone_of(lm, way, prompts)


def test_a_way_that_knows_the_questions_by_heart_is_caught(root, monkeypatch) -> None:
    """Whatever context is sent, it feeds the one that it first saw with the question: as good as the text, from none.

    It tells prompts by their last tokens, since the name of what is asked for stands there."""
    known: dict[tuple[int, ...], torch.Tensor] = {}
    latest: list[torch.Tensor] = []
    compress = Pca.compress

    def by_heart(self, lm, ids_T):
        latest[:] = [known.setdefault(tuple(ids_T[-40:].tolist()), ids_T)]
        return compress(self, lm, ids_T)

    monkeypatch.setattr(Pca, "compress", by_heart)
    monkeypatch.setattr(Pca, "inject", lambda self, lm, sent: Injected(lm.table_VD[latest[0]]))
    run = ran(root, "C3", "ratios=[2.0]", "compressors=[pca]")
    assert run.read_json(RunDir.METRICS)["ratio_keeping_90_pca"]["value"] == 2
    assert controls(run)["leaked_gain"] is Outcome.INVALID
    assert run.read_json(RunDir.METRICS)["leaked_gain"]["low"] > 0.1


def test_answers_that_are_all_alike_are_caught(root, monkeypatch) -> None:
    """Whatever context is read, the same is written: right for every question, and from another one's as well."""
    listen, answered = asking.listen, scoring.answered

    def alike(heard):
        return heard._replace(answers=["a ball"] * len(heard.answers))

    def answered_alike(lm, way, *given):
        told = answered(lm, way, *given)
        return told if isinstance(way, EmptyContext) else told._replace(heard=alike(told.heard))

    monkeypatch.setattr(asking, "listen", lambda *given: alike(listen(*given)))
    monkeypatch.setattr(frontier, "answered", answered_alike)
    run = ran(root, "C3", "ratios=[2.0]", "compressors=[truncation]")
    found = controls(run)
    assert run.read_json(RunDir.METRICS)["ratio_keeping_90_in_fewer_vectors"]["value"] == 2
    assert (found["gain_of_context"], found["shuffled_gain"]) == (Outcome.PASS, Outcome.INVALID)


def test_a_receiver_that_looks_at_the_source_is_caught(root, monkeypatch) -> None:
    compress, inject, seen = KvPruning.compress, KvPruning.inject, []

    def watching(self, lm, ids_T, question=None):
        seen[:] = [compress(self, lm, ids_T, question)]
        return seen[0]

    monkeypatch.setattr(KvPruning, "compress", watching)
    monkeypatch.setattr(KvPruning, "inject", lambda self, lm, sent: inject(self, lm, seen[0]))
    run = ran(root, "C3", "ratios=[2.0]", "compressors=[kv_key_norm,truncation]")
    assert controls(run)["travels_alone"] is Outcome.INVALID
    points = {row["compressor"]: row["travels_alone"]["value"] for row in run.read_json("frontier.json")}
    assert points == {"kv_key_norm": 0, "truncation": 1}


@pytest.mark.parametrize(
    ("code", "module", "words"),
    [
        ("C1", reconstruction, ("baselines=[]",)),
        ("C3", frontier, ("ratios=[2.0]", "compressors=[truncation]")),
        ("C4", sequences, ()),
    ],
)
def test_a_model_that_answers_without_its_context_is_caught(code, module, words, root, monkeypatch) -> None:
    monkeypatch.setattr(module, "EmptyContext", Replay)  # as if an empty context were answered as the whole one is
    run = ran(root, code, *words)
    metrics, found = run.read_json(RunDir.METRICS), controls(run)
    assert metrics["empty_f1_kept"]["value"] == 1
    assert found["empty_f1_kept"] is Outcome.INVALID
    if code != "C1":  # whose gate does not ask for it
        assert metrics["gain_of_context"]["value"] == 0
        assert found["gain_of_context"] is Outcome.INVALID


@pytest.mark.parametrize("kept", ["too many", "too few"])
def test_truncation_at_equal_bytes_that_is_none_is_caught(kept, root, monkeypatch) -> None:
    within = truncation.tokens_within
    monkeypatch.setattr(
        truncation,
        "tokens_within",
        lambda bits, rows, tokens: tokens if kept == "too many" else max(0, within(bits, rows, tokens) - 1),
    )
    run = ran(root, "C3", "ratios=[4.0]", "compressors=[truncation]")
    assert run.read_json(RunDir.METRICS)["equal_bits_honoured"]["value"] < 0.5
    assert controls(run)["equal_bits_honoured"] is Outcome.INVALID


def test_truncation_at_equal_bytes_gets_what_the_bits_carry(world) -> None:
    lm, prompts, text = world
    way = EqualVectors(4.0)
    told = scoring.answered(lm, way, prompts, CONFIG)
    same = scoring.measure_equal_bits(lm, way, prompts, CONFIG, text, told.heard, told.bits)
    assert same["equal_bits_honoured"].value == 1
    assert same["gain_over_equal_bits"].value == 0, "ids at their own price"
    whole = scoring.measure_equal_bits(lm, Replay(), prompts, CONFIG, text, told.heard)
    assert whole["equal_bits_honoured"].value == whole["equal_bits_f1_kept"].value == 1, "rows carry every id"
    assert whole["gain_over_equal_bits"].value < 0


# --- C1 and C4 -----------------------------------------------------------------------------------------------------


def test_truncation_at_equal_bytes_is_measured_whatever_baselines_are_asked_for(root) -> None:
    run = ran(root, "C1", "baselines=[]")
    metrics = run.read_json(RunDir.METRICS)
    assert {"equal_bits_f1", "equal_bits_f1_kept", "gain_over_equal_bits"} <= set(metrics)
    assert controls(run)["equal_bits_honoured"] is Outcome.PASS
    assert any(c.metric == "equal_bits_honoured" for c in STUDY.phase("C2").gate.criteria)


def of_few_contexts(asked: Asked) -> Asked:
    """As if every three questions were about one text."""
    told = [p._replace(question=p.question._replace(group=f"{i // 3}")) for i, p in enumerate(asked.prompts)]
    return Asked(told, asked.text)


def test_questions_about_one_text_are_one_unit_in_whatever_a_gate_asks(root, world) -> None:
    lm, prompts, text = world
    asked = of_few_contexts(Asked(prompts, text))
    contexts = len({p.question.group for p in asked.prompts})
    adapter = Adapter.load(ran(root, "C1", "baselines=[]").path / reconstruction.ADAPTER)
    rows, _ = reconstruction.measure_adapter(lm, adapter, asked, [], CONFIG, 0)
    vectors, _ = sequences.measure(lm, EqualVectors(4.0), sequences.Config(asking=CONFIG), asked, 0)
    for metrics, name in ((rows, "recon_cosine"), (rows, "recon_mse"), (vectors, "tokens_per_vector")):
        assert (metrics[name].n, metrics[name].unit) == (contexts, "contexts"), name
    assert vectors["gain_over_truncation"].value == 0, "they are the first tokens"
    assert vectors["gain_over_truncation"].low < 0 < vectors["gain_over_truncation"].high


def test_vectors_that_are_fed_twice_are_caught(root, monkeypatch) -> None:
    inject = MemoryTokens.inject
    monkeypatch.setattr(
        MemoryTokens,
        "inject",
        lambda self, lm, sent: Injected(torch.cat([inject(self, lm, sent).rows_MD] * 2)),  # type: ignore[list-item]
    )
    run = ran(root, "C4", "kind=memory_tokens")
    found = controls(run)
    assert run.read_json(RunDir.METRICS)["ratio_honoured"]["value"] == 0
    assert (found["ratio_honoured"], found["tokens_per_vector"]) == (Outcome.INVALID, Outcome.INVALID)


def test_more_vectors_than_the_claim_is_about_are_no_evidence_for_it(root) -> None:
    found = controls(ran(root, "C4", "ratio=2.0"))
    assert (found["ratio_honoured"], found["tokens_per_vector"]) == (Outcome.PASS, Outcome.INVALID)


# --- another context under one's own question ----------------------------------------------------------------------


def test_another_context_stands_under_ones_own_question(world) -> None:
    _, prompts, _ = world
    mixed = scoring.with_other_contexts(prompts, 0)
    contexts = {p.context_ids: p.question.group for p in prompts}
    longest = max(len(p.ids) for p in prompts)
    for own, other in zip(prompts, mixed, strict=True):
        assert (other.prefix_ids, other.suffix_ids, other.question) == (own.prefix_ids, own.suffix_ids, own.question)
        (group,) = {g for ids, g in contexts.items() if ids[: len(other.context_ids)] == other.context_ids}
        assert group != own.question.group
        assert len(other.ids) <= longest


# --- memory --------------------------------------------------------------------------------------------------------


def test_no_more_caches_are_held_than_are_answered_at_once(world, monkeypatch) -> None:
    lm, prompts, _ = world
    alive: weakref.WeakSet = weakref.WeakSet()
    most, fed_by = [], scoring.fed_by

    def counted(*given):
        fed, sent = fed_by(*given)
        assert isinstance(fed, CachedPrompt)
        alive.add(fed.cache)
        gc.collect()
        most.append(len(alive))
        return fed, sent

    monkeypatch.setattr(scoring, "fed_by", counted)
    way = KvPruning(2.0, prefix=prompts[0].prefix_ids)
    told = scoring.answered(lm, way, prompts, CONFIG)
    assert max(most) == CONFIG.batch < len(prompts)
    whole = scoring.tell(lm, way, prompts, CONFIG)
    assert max(most) >= len(prompts), "what keeps all of them is seen by this count"
    assert told.heard == whole.heard
    assert told.bits == [way.bits(sent) for sent in whole.sent]


def test_a_context_of_several_questions_is_compressed_once_and_each_is_answered_as_alone(world, monkeypatch) -> None:
    lm, (one, other, third, *_), _ = world
    again = [one._replace(ids=one.ids[: one.context_stop] + prompt.suffix_ids) for prompt in (other, third)]
    asked = [one, third, again[0], other, again[1]]
    assert len({prompt.context_ids for prompt in asked}) == 3
    way, compressed = KvPruning(2.0, prefix=one.prefix_ids), []
    alone = [scoring.tell(lm, way, [prompt], CONFIG).heard.ids[0] for prompt in asked]
    compress = KvPruning.compress
    monkeypatch.setattr(KvPruning, "compress", lambda *given: compressed.append(0) or compress(*given))
    assert scoring.tell(lm, way, asked, CONFIG).heard.ids == alone
    assert len(compressed) == 3
    assert scoring.answered(lm, way, asked, CONFIG).heard.ids == alone
    assert len(compressed) - 3 <= 4 < len(asked), "once, but where a batch ends between two questions"


# --- how far -------------------------------------------------------------------------------------------------------


def points_of(*kept: tuple[float, float, float, float]) -> list[Point]:
    return [Point("x", ratio, {"f1_kept": Estimate(value, low, high, 9, "c")}) for ratio, low, value, high in kept]


def test_a_ratio_that_holds_to_the_end_is_a_lower_bound_and_says_so() -> None:
    falling = points_of((2, 0.96, 0.97, 1), (4, 0.5, 0.6, 0.7))
    holding = points_of((2, 0.96, 0.97, 1), (4, 0.92, 0.97, 1))
    perhaps = points_of((2, 0.96, 0.97, 1), (4, 0.5, 0.8, 0.91))
    assert largest_ratio(falling, 0.9).unit == "ratios"
    assert largest_ratio(holding, 0.9).unit == "ratios, right-censored"
    assert (largest_ratio(holding, 0.9).value, largest_ratio(holding, 0.9).low) == (4, 4)
    assert largest_ratio(perhaps, 0.9).unit == "ratios, right-censored", "the interval's end is not known"
    assert largest_ratio(perhaps, 0.9).value == 2
    assert largest_ratio(points_of((2, 0.1, 0.2, 0.3)), 0.9).unit == "ratios"
    assert frontier.label("x", holding) == "x (≥ 95 % to the end)"
    assert frontier.label("x", falling) == "x"


def test_the_picture_says_which_ratios_are_lower_bounds(root) -> None:
    run = ran(root, "C3", "ratios=[1.0]", "compressors=[truncation]")
    caption = json.loads((run.figures / "captions.json").read_text())["frontier.png"]
    assert "only a lower bound" in caption
    assert run.read_json(RunDir.METRICS)["ratio_keeping_95_truncation"]["unit"] == "ratios, right-censored"
