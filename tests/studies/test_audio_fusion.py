"""The audio-fusion study in planted worlds: features that tell the caption must be heard and pass, noise must not, and
each known defect of the original must be caught by a control.

The planted world has eight words; a clip's first frames tell one, its last frames another, its caption is the two in
order. Held-out clips hold pairs that no training clip holds.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from inscape.core.config import to_dict
from inscape.core.estimate import exact
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, resume, run_study
from inscape.core.standing import judge
from inscape.core.study import SMOKE
from inscape.nn.fusion_blocks import Heard, LowRankCrossAttention
from inscape.pretrained.language_model import open_language_model
from inscape.studies import study
from inscape.studies.audio_fusion import fixes, listener, sounds, training, trial
from inscape.studies.audio_fusion.kept_encoder import kept_encoder
from inscape.studies.audio_fusion.language import begin_ids, open_language
from inscape.studies.audio_fusion.listener import BASELINE, PHASE1, load_listener, write_captions
from inscape.studies.audio_fusion.listening_gate import LISTENING
from inscape.studies.audio_fusion.measures import best_constant
from inscape.studies.audio_fusion.plan_sizes import CLAIMED, plan_sizes
from inscape.studies.audio_fusion.retention import Retention, moved
from inscape.studies.audio_fusion.sounds import SoundConfig, open_sounds
from inscape.studies.audio_fusion.training import TrainingConfig, fit_within_memory

STUDY = study("audio-fusion")
WORDS = ("bell", "drum", "horn", "flute", "siren", "whistle", "cough", "thunder")
FRAMES, CLIPS = 6, {"train": 192, "validation": 8, "held_out": 96}
PLANTED = (
    "language.own.fit.steps=120",
    "language.own.fit.warmup_steps=10",
    "language.own.fit.lr=5e-3",
    "language.own.width=32",
    "language.own.batch=32",
)
LEARNING = (
    "training.fit.steps=250",
    "training.batch=32",
    "training.fit.warmup_steps=10",
    "training.fit.checkpoint_every=0",
    "training.fit.ema_decay=0.9",
    "training.label_smoothing=0",
)
HEARING = (
    "fusion.rank=16",
    "projector.tokens=6",
    "projector.bottleneck=32",
    "lr_projector=5e-3",
    "lr_adapter=5e-3",
)


def pairs(split: str) -> list[tuple[int, int]]:
    """Every pair of two different words, a fifth of them held out."""
    held_out = [(i, j) for i in range(8) for j in range(8) if i != j and (3 * i + j) % 5 == 0]
    trained = [(i, j) for i in range(8) for j in range(8) if i != j and (3 * i + j) % 5]
    some = held_out if split == "held_out" else trained
    return [some[i % len(some)] for i in range(CLIPS[split])]


def plant(monkeypatch, *, told: bool) -> None:
    """Put the planted clips in the place of the sound world's; told: features say which words the caption has."""

    def heard(data, split, seed, encoder) -> Iterator[sounds._Heard]:
        draw = np.random.default_rng([seed, sounds.SPLITS.index(split)])
        features, captions = [], []
        for first, second in pairs(split):
            frames_TF = 0.1 * draw.normal(size=(FRAMES, encoder.dimension))
            if told:
                frames_TF[: FRAMES // 2, first] += 1
                frames_TF[FRAMES // 2 :, second] += 1
            features.append(frames_TF.astype(np.float32))
            captions.append((f"a {WORDS[first]} then a {WORDS[second]}", f"first a {WORDS[first]} , a {WORDS[second]}"))
        yield sounds._Heard(features, captions, [""] * len(captions))

    monkeypatch.setattr(sounds, "_of_world", heard)
    keep = sounds._keep_split

    def kept(run, split, source, data, encoder, set_aside) -> None:
        keep(run, split, source, replace(data, seconds=FRAMES / encoder.rate_hz), encoder, set_aside)
        path = run.path / sounds.CLIPS.format(split)  # these captions are not the sound world's, and cannot be parsed
        path.write_text(json.dumps(json.loads(path.read_text()) | {"is_world": False}))

    monkeypatch.setattr(sounds, "_keep_split", kept)


def ran(tmp_path, *codes: str, overrides: tuple[str, ...] = (), own: dict[str, tuple[str, ...]] | None = None):
    """Runs of these phases; `own`: overrides of one phase beside those of all."""
    runs = {}
    for code in codes:
        request = Request(preset=SMOKE, device="cpu", root=tmp_path, overrides=(*overrides, *(own or {}).get(code, ())))
        runs[code] = run_study(STUDY, [STUDY.phase(code)], request, lambda line: None, lambda run: None)[0]
    return runs


def prefixed(where: str) -> tuple[str, ...]:
    return tuple(f"{where}.{each}" for each in HEARING)


def outcomes(run: RunDir) -> dict[str, Outcome]:
    return {f.criterion.metric: f.outcome for f in judge(run).findings}


def value(run: RunDir, name: str) -> float:
    return run.read_json(RunDir.METRICS)[name]["value"]


# --- planted and empty worlds -------------------------------------------------------------------------------------


def test_what_can_be_heard_is_heard_and_passes(tmp_path, monkeypatch) -> None:
    plant(monkeypatch, told=True)
    own = {"phase1": (*LEARNING, *prefixed("phase1"), "language.candidates=3")}
    run = ran(tmp_path, "identity", "connectivity", "phase1", overrides=PLANTED, own=own)["phase1"]
    assert value(run, "exact") > 0.9
    assert value(run, "reranked_cider") > 2 * value(run, "shuffled_cider")
    failed = {name for name, outcome in outcomes(run).items() if outcome is not Outcome.PASS}
    assert not failed, {name: run.read_json(RunDir.METRICS)[name] for name in failed}
    rows = run.read_json("captions.json")
    assert {"own", "shuffled", "masked", "silence", "no_audio", "constant", "reranked", "references"} <= set(rows[0])
    assert [row["masked"] for row in rows] == [row["no_audio"] for row in rows]
    assert len({row["constant"] for row in rows}) == 1
    assert (run.figures / "conditions.png").is_file()


def test_noise_is_not_heard_and_does_not_pass(tmp_path, monkeypatch) -> None:
    plant(monkeypatch, told=False)
    own = {"phase1": (*LEARNING, "training.fit.steps=80", *prefixed("phase1"))}
    run = ran(tmp_path, "identity", "connectivity", "phase1", overrides=PLANTED, own=own)["phase1"]
    assert judge(run).outcome is Outcome.INVALID
    found = outcomes(run)
    assert found["gain_lost_less_four_fifths"] is Outcome.INVALID
    assert found["prefers_right_clip"] is Outcome.INVALID
    assert value(run, "exact") < 0.3
    assert value(run, "cider") > 30, "captions that nobody heard still score: this is what the controls are for"


def test_one_global_vector_cannot_tell_the_order(tmp_path, monkeypatch) -> None:
    plant(monkeypatch, told=True)
    own = {"phase1": (*LEARNING, *prefixed("phase1"), "phase1.projector.kind=mlp")}
    run = ran(tmp_path, "identity", "connectivity", "phase1", overrides=PLANTED, own=own)["phase1"]
    assert value(run, "exact") < 0.8, "the mean of a clip does not say which word came first"


# --- the instrument -----------------------------------------------------------------------------------------------


def test_every_kind_is_the_model_itself_and_nothing_is_random_and_frozen(tmp_path) -> None:
    run = ran(tmp_path, "identity")["identity"]
    assert judge(run).outcome is Outcome.PASS
    kinds = run.read_json("kinds.json")
    assert set(kinds) == {"prefix", "gated_cross_attention", "zero_init_attention", "lora_cross_attention"}
    assert all(each["init_difference"] == 0 and each["open_difference"] > 0 for each in kinds.values())
    assert run.read_json("plan_sizes.json")["claimed"] == CLAIMED


def test_a_frozen_random_projection_is_refused_before_training(tmp_path, monkeypatch) -> None:
    ran(tmp_path, "identity")
    made = listener.Fusion

    def frozen(config, model) -> nn.Module:  # what get_peft_model does: everything but the low-rank part
        fusion = made(config, model)
        for name, parameter in fusion.named_parameters():
            parameter.requires_grad_("query" in name)
        return fusion

    monkeypatch.setattr(listener, "Fusion", frozen)
    with pytest.raises(ValueError, match="would stay random"):
        ran(tmp_path, "connectivity")


def test_a_listener_that_is_not_itself_at_the_start_fails_identity(tmp_path, monkeypatch) -> None:
    new = listener.new_listener

    def moved(*given):
        found = new(*given)
        with torch.no_grad():
            for parameter in found.fusion.parameters():
                parameter.add_(0.1)
        return found

    monkeypatch.setattr("inscape.studies.audio_fusion.identity.new_listener", moved)
    run = ran(tmp_path, "identity")["identity"]
    assert outcomes(run)["init_difference"] is Outcome.FAIL


LOW_RANK = LowRankCrossAttention.forward


def behind_a_norm(block: LowRankCrossAttention, *given) -> Heard:
    added_BTI, weight_BHKT = LOW_RANK(block, *given)
    return Heard(functional.layer_norm(added_BTI, added_BTI.shape[-1:], eps=1e-12), weight_BHKT)


def without_a_gate(block: LowRankCrossAttention, *given) -> Heard:
    block.gate_value = lambda: 1.0 + 0.0 * block.gate
    return LOW_RANK(block, *given[:-1], 1.0)


@pytest.mark.parametrize(
    ("planted", "caught"),
    [(behind_a_norm, {"half_gate_error"}), (without_a_gate, {"half_gate_error", "gate_0_difference"})],
)
def test_a_gate_that_means_nothing_fails_identity(tmp_path, monkeypatch, planted, caught: set[str]) -> None:
    monkeypatch.setattr(LowRankCrossAttention, "forward", planted)
    run = ran(tmp_path, "identity")["identity"]
    assert {name for name, outcome in outcomes(run).items() if outcome is Outcome.FAIL} == caught
    kinds = run.read_json("kinds.json")
    assert all(each["half_gate_error"] < 0.01 for kind, each in kinds.items() if kind != "lora_cross_attention")


def test_the_plans_two_configs_stand_side_by_side() -> None:
    config = STUDY.phase("phase1").preset("full")
    table = to_dict(config)
    for name, rank, tokens, layers, scale, gate, warmup, rates in (
        ("baseline", 8, 16, [6, 12, 24], 2, (0.05, 0.3), 2000, (2e-4, 1e-4)),
        ("phase1", 64, 32, [8, 16, 24, 32], 10, (0.3, 1.0), 0, (1e-3, 5e-4)),
    ):
        each = table[name]
        assert (each["fusion"]["rank"], each["projector"]["tokens"]) == (rank, tokens)
        assert (each["fusion"]["layers"], each["projector"]["scale"]) == (layers, scale)
        assert (each["fusion"]["residual_init"], each["fusion"]["residual_max"]) == gate
        assert each["fusion"]["gate_warmup"] == warmup
        assert (each["lr_projector"], each["lr_adapter"]) == rates
    assert (table["training"]["batch"], table["training"]["fit"]["accumulate"], table["training"]["epochs"]) == (
        4,
        32,
        20,
    )
    assert (config.training.label_smoothing, config.training.fit.weight_decay, config.training.fit.clip_norm) == (
        0.1,
        0.01,
        1,
    )


def test_true_counts_are_not_the_plans_claims() -> None:
    sizes = plan_sizes()
    assert sizes["phase1"]["projector"] == 168_462_336
    assert sizes["phase1"]["total"] == 176_326_660
    assert sizes["phase1"]["total"] < 0.5 * CLAIMED["phase1"]["total"]
    assert sizes["baseline"]["total"] < 0.5 * CLAIMED["baseline"]["total"]


@pytest.mark.parametrize("preset", ["smoke", "quick", "small", "full"])
def test_each_fix_changes_what_it_says_and_all_make_one_of_the_other(preset) -> None:
    config = STUDY.phase("fixes").preset(preset)
    made = fixes.variants(config.baseline, config.phase1)
    assert len(made) == 12
    assert preset == SMOKE or len({json.dumps(to_dict(each)) for each in made.values()}) == 12
    assert all(
        each.lr_projector == (config.baseline if name.startswith("only") else config.phase1).lr_projector
        for name, each in made.items()
        if name not in ("baseline", "only_rates", "without_rates")
    ), "the learning rates are a change of their own"
    fixed = config.baseline
    for fix in fixes.FIXES.values():
        fixed = fix(fixed, config.phase1)
    assert fixed == config.phase1
    assert preset != "full" or (config.baseline, config.phase1) == (BASELINE, PHASE1)
    together = fixes.variants(config.baseline, config.phase1, each=False)
    assert together == {name: made[name] for name in ("baseline", "phase1")}
    assert config.each == (preset != "quick"), "minutes do not tell five changes apart"


def test_judged_together_the_gates_are_asked_of_two_trainings_and_a_control(tmp_path) -> None:
    """What `quick` has time for: every criterion is measured, and nothing else is trained."""
    ran(tmp_path, "identity", "connectivity")
    for code, trained in (("retention", {"none", "full"}), ("fixes", {"baseline", "phase1", "strangers"})):
        assert not STUDY.phase(code).preset("quick").each
        run = ran(tmp_path, code, overrides=("each=false",))[code]
        assert {log.parent.name for log in run.path.glob("*/log.jsonl")} == trained
        kept = run.read_json(RunDir.METRICS)
        assert {criterion.metric for criterion in STUDY.phase(code).gate.criteria} <= set(kept)
        assert not any("soft" in name or "only" in name or "without_c" in name for name in kept)


# --- training -----------------------------------------------------------------------------------------------------


def test_two_learning_rates_move_projector_and_fusion_apart() -> None:
    lm = open_language_model("tiny")
    config = replace(PHASE1, fusion=replace(PHASE1.fusion, layers=(1, 2), rank=2))
    made = listener.Listener(config, 8, lm)
    assert made.learning_rate_shares == {"fusion": pytest.approx(0.5)}


def test_out_of_memory_halves_the_batch_gathers_twice_and_goes_on(capsys) -> None:
    tried = []

    def attempt(batch: int, accumulate: int):
        tried.append((batch, accumulate))
        if batch > 2:
            raise torch.OutOfMemoryError
        return "done"

    assert fit_within_memory(attempt, 8, 4) == "done"
    assert tried == [(8, 4), (4, 8), (2, 16)]
    assert "out of memory: 2 clips at once from here on, gathered 16 times a step" in capsys.readouterr().err
    with pytest.raises(ValueError, match="cannot be halved"):
        fit_within_memory(lambda batch, accumulate: attempt(9, 1), 1, 1)


def test_the_same_clips_make_a_step_however_they_are_gathered(tmp_path) -> None:
    first = ran(tmp_path, "identity")["identity"]
    some, lm = open_sounds(first, "train"), open_language_model("tiny")
    whole = training._batches(lm, TrainingConfig(batch=8), some, "so :", 0, 8)(1, 0, 1)
    halves = [training._batches(lm, TrainingConfig(batch=8), some, "so :", 0, 4)(step, 0, 1) for step in (2, 3)]
    assert torch.equal(whole.features_BTF, torch.cat([each.features_BTF for each in halves]))
    for i, row in enumerate(whole.ids_BN):
        half = halves[i // 4].ids_BN[i % 4]
        assert row[whole.counted_BN[i]].tolist() == half[halves[i // 4].counted_BN[i % 4]].tolist()


def test_a_run_that_was_killed_resumes_bit_for_bit(tmp_path, monkeypatch) -> None:
    ran(tmp_path, "identity")
    ran(tmp_path, "connectivity")
    whole = ran(tmp_path, "phase1")["phase1"]
    loss = training.caption_loss

    def torn(*given):
        if torn.left == 0:
            raise KeyboardInterrupt
        torn.left -= 1
        return loss(*given)

    torn.left = 2
    monkeypatch.setattr(training, "caption_loss", torn)
    before = set(tmp_path.rglob("phase1/smoke/*-s0"))
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path, "phase1")
    (path,) = set(tmp_path.rglob("phase1/smoke/*-s0")) - before
    monkeypatch.setattr(training, "caption_loss", loss)
    resume(STUDY, RunDir.open(path), lambda run: None)
    assert (path / "listener.safetensors").read_bytes() == (whole.path / "listener.safetensors").read_bytes()


def test_a_listener_comes_back_from_its_file_with_its_gates(tmp_path) -> None:
    runs = ran(tmp_path, "identity", "connectivity", "phase1", own={"phase1": ("model=baseline",)})
    config = STUDY.phase("phase1").preset(SMOKE)
    lm = open_language("own", config.language, runs["identity"], "cpu")
    heard_by = kept_encoder(runs["identity"])
    found, made = load_listener(runs["phase1"].path / "listener.safetensors", lm, heard_by)
    assert made.fusion.layers == (2,)
    held_out = open_sounds(runs["identity"], "held_out")
    said = write_captions(
        lm, found, listener.of_sounds(held_out), held_out.size, prompt=config.language.prompt, new_tokens=6, batch=8
    )
    assert said == [row["own"] for row in runs["phase1"].read_json("captions.json")]
    with pytest.raises(ValueError, match="holds no listener for tiny"):
        load_listener(runs["phase1"].path / "listener.safetensors", open_language_model("tiny"), heard_by)
    (tmp_path / "broken").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds no listener"):
        load_listener(tmp_path / "broken", lm, heard_by)


def test_later_phases_run_and_say_what_they_measured(tmp_path) -> None:
    runs = ran(tmp_path, "identity", "connectivity", "phase1", "phase2", "retention", "fixes")
    kept = runs["retention"].read_json(RunDir.METRICS)
    assert {f"perplexity_ratio_{kind}" for kind in ("none", "soft", "fisher", "nullspace", "full")} <= set(kept)
    assert kept["ratio_without_audio"]["value"] == 1
    assert outcomes(runs["fixes"])["gain_of_all"] is not Outcome.PASS, "three steps teach nothing"
    assert "gain_over_phase1" in runs["phase2"].read_json(RunDir.METRICS)
    assert (runs["retention"].figures / "retention.png").is_file()
    assert (runs["fixes"].figures / "fixes.png").is_file()


@pytest.mark.parametrize("kind", ["prefix", "gated_cross_attention", "zero_init_attention", "lora_cross_attention"])
def test_retention_looks_at_nearly_every_weight_and_leaves_the_gates_free(tmp_path, kind) -> None:
    first = ran(tmp_path, "identity")["identity"]
    some, config = open_sounds(first, "train"), STUDY.phase("retention").preset(SMOKE)
    lm = open_language("own", config.language, first, "cpu")
    made = replace(config.listener, fusion=replace(config.listener.fusion, kind=kind))
    heard = listener.new_listener(made, some, lm, 0)
    before = {name: p.detach().clone() for name, p in heard.named_parameters()}
    kept = Retention.of("full", 1.0, lm, heard, some, 0)
    assert all(torch.equal(p, before[name]) for name, p in heard.named_parameters()), "looking moves nothing"
    assert len(kept._fisher) > 0.8 * len(before)
    assert not any("gate" in name for name in kept._basis)
    batch = training.caption_batch(lm, some, range(4), config.language.prompt)
    heard = moved(heard, 0.1, 1)
    with kept.projecting(heard):
        training.caption_loss(lm, heard, batch).backward()
    for name, parameter in heard.named_parameters():
        if name in kept._basis and parameter.grad is not None:
            along = kept._basis[name] @ parameter.grad.flatten()
            assert float(along.norm()) <= 1e-4 * max(1e-3, float(parameter.grad.norm()))
    terms = kept.terms(heard, batch, 0)
    assert set(terms) == {"soft", "fisher"}
    assert all(float(term.detach()) > 0 for term in terms.values())


def test_retention_that_had_nothing_to_retain_is_invalid(tmp_path) -> None:
    run = ran(tmp_path, "identity", "connectivity", "retention")["retention"]
    assert outcomes(run)["perplexity_ratio_none"] is Outcome.INVALID


def test_a_model_that_training_changed_is_noticed(tmp_path, monkeypatch) -> None:
    ran(tmp_path, "identity")
    fit = training.fit

    def spoiling(model, batch_at, loss_terms, *given, **named):
        def terms(each, batch, step):
            found = loss_terms(each, batch, step)
            spoiled[0].model.get_output_embeddings().weight.data.add_(1e-6)
            return found

        return fit(model, batch_at, terms, *given, **named)

    spoiled: list = []
    opened = trial.open_language
    monkeypatch.setattr(trial, "open_language", lambda *given: spoiled.append(opened(*given)) or spoiled[-1])
    monkeypatch.setattr(training, "fit", spoiling)
    run = ran(tmp_path, "connectivity")["connectivity"]
    assert outcomes(run)["model_changed"] is Outcome.INVALID


def test_texts_begin_as_the_model_has_learned_it(tmp_path) -> None:
    first = ran(tmp_path, "identity")["identity"]
    lm = open_language("own", STUDY.phase("phase1").preset(SMOKE).language, first, "cpu")
    assert begin_ids(lm) == [lm.end_ids[0]]
    assert listener.caption_ids(lm, "the sound :", [])[0][0] == lm.end_ids[0]


# --- measures and doors -------------------------------------------------------------------------------------------


def test_the_constant_caption_is_the_one_that_fits_most_clips() -> None:
    common, rare = ("a dog barks loudly here",), ("rain falls on a tin roof",)
    made = sounds.Sounds(
        np.zeros((5, 1, 1)), np.ones(5), [common, rare, common, common, ("bells ring far away now",)], [""] * 5, False
    )
    assert best_constant(made) == common[0]


def test_a_wrong_clip_is_one_of_which_something_else_is_said() -> None:
    said = [("rain",)] * 3 + [("a dog",)] * 3
    made = sounds.Sounds(np.zeros((6, 1, 1)), np.ones(6), said, [""] * 6, False)
    for turn in (1, 3):
        assert all(said[i] != said[j] for i, j in enumerate(sounds.others(made, turn)))


def test_a_gate_asks_for_every_control() -> None:
    controls = {c.metric for c in LISTENING if c.role == "control"}
    assert {
        "gain_lost_less_four_fifths",
        "silence_over_constant",
        "prefers_right_clip",
        "gain_over_no_audio",
        "gate_0_difference",
        "leaks",
    } <= controls


def test_of_files_what_is_said_of_masked_clips_is_compared_and_silence_is_not_scored() -> None:
    """One caption for all of ten classes may fit more clips than another: no run could prove that it does not."""
    for code in ("phase1", "phase2"):
        phase = STUDY.phase(code)
        world = phase.preset("quick")
        files = replace(world, data=replace(world.data, path="esc10"))
        assert phase.gate_of(world) == phase.gate
        gate = phase.gate_of(files)
        changed = {c.metric for c in gate.criteria} ^ {c.metric for c in phase.gate.criteria}
        assert changed == {"heard_through_mask", "silence_over_constant"}
        met = {c.metric: exact(c.bound, 9, "clips") for c in gate.criteria}
        assert gate.judge(met).outcome is Outcome.PASS
        own_words = met | {"heard_through_mask": exact(1, 80, "clips")}
        assert gate.judge(own_words).outcome is Outcome.INVALID


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seconds": 0}, "data.seconds=0"),
        ({"encoder": "ears"}, "data.encoder='ears'"),
        ({"captions": "a.csv"}, "belong together"),
        ({"captions": "a.csv", "held_out_captions": "b.csv"}, "data.path=FOLDER"),
        ({"train_folds": (1, 4)}, "share a fold"),
        ({"train": 0}, "data.train=0"),
    ],
)
def test_nonsense_about_sounds_is_answered_in_one_line(changes, said) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        SoundConfig(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "overrides", "said"),
    [
        ("phase1", ("training.fit.optimizer=muon", "phase1.lr_projector=1e-3"), "muon knows one learning rate"),
        ("phase1", ("phase1.fusion.layers=[9]",), "allowed: 1 to 2"),
        ("identity", ("data.encoder=log-mel:abc",), "log-mel"),
        ("phase1", ("model=phase9",), "allowed: phase1, baseline"),
        ("identity", ("language.prompt=another", "data.model=nowhere/at/all"), "nowhere"),
    ],
)
def test_nonsense_is_answered_before_anything_is_trained(tmp_path, code, overrides, said) -> None:
    if code == "phase1":
        ran(tmp_path, "identity", "connectivity")
    before = set(tmp_path.rglob("config.yaml"))
    with pytest.raises(ValueError, match=said) as caught:
        ran(tmp_path, code, overrides=overrides)
    assert "\n" not in str(caught.value)
    assert set(tmp_path.rglob("config.yaml")) == before


def test_a_run_on_what_another_config_prepared_is_refused(tmp_path) -> None:
    ran(tmp_path, "identity")
    with pytest.raises(ValueError, match="run the phase identity with the same overrides"):
        ran(tmp_path, "connectivity", overrides=("language.prompt=another",))


def test_a_folder_that_is_not_there_leaves_no_run(tmp_path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        ran(tmp_path, "identity", overrides=("data.path=nowhere",))
    assert not list(tmp_path.rglob("config.yaml"))
