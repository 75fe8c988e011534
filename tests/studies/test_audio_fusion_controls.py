"""Controls of the trainings that are compared: one caption for all is not hearing, a frozen model stays as it was, and
memory that runs out on a CPU is met as on a GPU.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from test_audio_fusion import STUDY, outcomes, ran, value

from inscape.core.config import with_overrides
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.core.study import SMOKE
from inscape.nn.fusion import KINDS
from inscape.studies.audio_fusion import forgetting, identity, listener, measures, retention, training, trial
from inscape.studies.audio_fusion.language import open_language
from inscape.studies.audio_fusion.listener import (
    Listener,
    log_probabilities,
    new_listener,
    of_sounds,
    write_captions,
)
from inscape.studies.audio_fusion.listening_gate import MASKED
from inscape.studies.audio_fusion.memory import in_batches
from inscape.studies.audio_fusion.retention import text_losses
from inscape.studies.audio_fusion.sounds import Sounds, features_of_silence, open_sounds
from inscape.studies.audio_fusion.training import fit_within_memory


def says_one_caption(bench, listener: Listener | None, sounds: Sounds, order: Sequence[int] | None = None) -> list[str]:
    """What a model without ears learns: one caption for all."""
    return ["it" if listener is None else sounds.captions[0][0]] * sounds.size


def says_what_it_hears(bench, listener: Listener | None, sounds: Sounds, order: Sequence[int] | None = None):
    heard = range(sounds.size) if order is None else order
    return ["it" if listener is None else sounds.captions[i][0] for i in heard]


@pytest.mark.parametrize(("says", "outcome"), [(says_one_caption, Outcome.INVALID), (says_what_it_hears, Outcome.PASS)])
def test_a_gain_without_ears_is_no_gain_in_retention(tmp_path, monkeypatch, says, outcome: Outcome) -> None:
    monkeypatch.setattr(trial, "captions_by", says)
    run = ran(tmp_path, "identity", "connectivity", "retention", overrides=("data.held_out=40",))["retention"]
    found = outcomes(run)
    assert found["gain_none"] is Outcome.PASS, "it is passed without ears"
    for kind in ("none", "full"):
        assert found[f"own_over_shuffled_{kind}"] is outcome
        assert (value(run, f"shuffled_cider_{kind}") < value(run, f"cider_{kind}")) == (outcome is Outcome.PASS)


@pytest.mark.parametrize("code", ["retention", "fixes"])
def test_a_model_that_a_training_changed_is_noticed(tmp_path, monkeypatch, code: str) -> None:
    ran(tmp_path, "identity", "connectivity")
    opened = trial.open_language
    models = []
    monkeypatch.setattr(trial, "open_language", lambda *given: models.append(opened(*given)) or models[-1])
    fit = training.fit

    def spoiling(*given, **named):
        found = fit(*given, **named)
        models[-1].model.get_output_embeddings().weight.data[0, 0] += 1e-6
        return found

    assert outcomes(ran(tmp_path, code)[code])["model_changed"] is Outcome.PASS
    monkeypatch.setattr(training, "fit", spoiling)
    assert outcomes(ran(tmp_path, code)[code])["model_changed"] is Outcome.INVALID


def test_every_training_says_what_is_trained_and_what_is_not(tmp_path) -> None:
    run = ran(tmp_path, "identity", "connectivity")["connectivity"]
    parts = run.read_json("training/audit.json")
    assert set(parts) == {"language_model", "projector", "fusion"}
    assert set(parts["language_model"]) == {"pretrained-frozen"}
    assert set(parts["projector"]) == set(parts["fusion"]) == {"trained"}
    assert all(count > 0 for part in parts.values() for count in part.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_listener_that_looks_past_its_mask_is_caught_by_what_it_says(tmp_path, kind: str) -> None:
    first = ran(tmp_path, "identity")["identity"]
    config = STUDY.phase("phase1").preset(SMOKE)
    lm, some = open_language("own", config.language, first, "cpu"), open_sounds(first, "held_out")
    chosen = replace(config.listener, fusion=replace(config.listener.fusion, kind=kind))
    heard = retention.moved(new_listener(chosen, some, lm, 0), 1.0, 0).eval()
    silence_TF = features_of_silence(first)

    def found() -> Estimate:
        judged = measures.by_condition(lm, heard, some, some, config.language, silence_TF)
        return measures.measure_listening(judged, some)["heard_through_mask"]

    masked = found()
    assert (masked.value, masked.n, MASKED.decide(masked)) == (0, some.size, Outcome.PASS)
    hear = heard.hear
    heard.hear = lambda features_BTF, mask_BT: hear(features_BTF, torch.ones_like(mask_BT))
    assert MASKED.decide(found()) is Outcome.INVALID


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000000 bytes.",
    ],
)
def test_memory_that_runs_out_on_a_cpu_halves_the_batch_too(capsys, words: str) -> None:
    tried = []

    def attempt(batch: int, accumulate: int):
        tried.append((batch, accumulate))
        if batch > 2:
            raise RuntimeError(words)
        return "done"

    assert fit_within_memory(attempt, 4, 1) == "done"
    assert tried == [(4, 1), (2, 2)]
    assert "out of memory: 2 clips at once" in capsys.readouterr().err
    with pytest.raises(ValueError, match="cannot be halved"):
        fit_within_memory(lambda batch, accumulate: attempt(9, 1), 1, 1)


@pytest.mark.parametrize(("batch", "tried"), [(9, [(9, 2), (3, 6), (1, 18)]), (7, [(7, 2), (1, 14)])])
def test_an_odd_batch_is_made_smaller_with_the_same_clips_a_step(batch: int, tried: list[tuple[int, int]]) -> None:
    seen = []

    def attempt(batch: int, accumulate: int):
        seen.append((batch, accumulate))
        if batch > 1:
            raise torch.OutOfMemoryError
        return "done"

    assert fit_within_memory(attempt, batch, 2) == "done"
    assert seen == tried
    assert len({batch * accumulate for batch, accumulate in seen}) == 1


def test_memory_that_runs_out_while_writing_halves_what_is_written_at_once(tmp_path, monkeypatch, capsys) -> None:
    first = ran(tmp_path, "identity")["identity"]
    config = STUDY.phase("phase1").preset(SMOKE)
    lm, some = open_language("own", config.language, first, "cpu"), open_sounds(first, "held_out")
    heard = new_listener(config.listener, some, lm, 0).eval()
    asked = {"prompt": config.language.prompt, "batch": 8}
    said = write_captions(lm, heard, of_sounds(some), some.size, new_tokens=6, **asked)
    chances = log_probabilities(lm, heard, of_sounds(some), said, **asked)
    losses = text_losses(lm, heard, said, some, 8)
    small, counts = listener.caption_states, []

    class Small:
        """A model whose memory holds three clips."""

        def __init__(self, model) -> None:
            self._model = model

        def __getattr__(self, name: str):
            return getattr(self._model, name)

        def __call__(self, **given):
            counts.append(len(given["input_ids"]))
            if len(given["input_ids"]) > 3:
                raise torch.OutOfMemoryError
            return self._model(**given)

    def states(lm, ids_BN):
        counts.append(len(ids_BN))
        if len(ids_BN) > 3:
            raise torch.OutOfMemoryError
        return small(lm, ids_BN)

    monkeypatch.setattr(listener, "caption_states", states)
    monkeypatch.setattr(retention, "caption_states", states)
    with_little = lm._replace(model=Small(lm.model))
    assert write_captions(with_little, heard, of_sounds(some), some.size, new_tokens=6, **asked) == said
    assert log_probabilities(lm, heard, of_sounds(some), said, **asked) == pytest.approx(chances)
    assert text_losses(lm, heard, said, some, 8) == pytest.approx(losses)
    assert {8, 4, 2} <= set(counts)
    assert capsys.readouterr().err.count("out of memory: 2 clips at once from here on") == 3


def test_what_does_not_fit_alone_is_refused_in_one_line() -> None:
    def never(first: int, last: int) -> list[int]:
        raise torch.OutOfMemoryError

    with pytest.raises(ValueError, match="memory does not suffice for 1 clip at once") as caught:
        in_batches(5, 2, never)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(5, 2, lambda first, last: (_ for _ in ()).throw(RuntimeError("shapes")))


def test_another_fault_is_not_taken_for_a_lack_of_memory() -> None:
    def attempt(batch: int, accumulate: int):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit_within_memory(attempt, 8, 1)


# --- figures that are no numbers, and what is kept beside a training --------------------------------------------


@pytest.mark.parametrize("start", ["0", "0.05"])
def test_a_gate_that_begins_shut_is_opened_to_be_measured(tmp_path, start: str) -> None:
    first = ran(tmp_path, "identity")["identity"]
    config = STUDY.phase("identity").preset(SMOKE)
    config = with_overrides(config, [f"listener.fusion.residual_init={start}"])
    lm, some = open_language("own", config.language, first, "cpu"), open_sounds(first, "held_out")
    for seed in range(4):  # of the moved gates of the first layer half, and a third, lie below 0
        found = identity.measure_kind(lm, config.listener, some, config.language.prompt, seed)
        assert found["half_gate_error"] < 0.01
        assert found["open_difference"] > 1e-6


def test_a_figure_that_is_no_number_is_no_pass(tmp_path, monkeypatch) -> None:
    difference = measures.logit_difference

    def broken(lm, made, *given, **named):
        found = difference(lm, made, *given, **named)
        return exact(float("nan"), 1, "clips") if made.fusion.config.kind == "zero_init_attention" else found

    monkeypatch.setattr(identity, "logit_difference", broken)
    run = ran(tmp_path, "identity")["identity"]
    assert outcomes(run)["init_difference"] is not Outcome.PASS
    assert run.read_json("kinds.json")["zero_init_attention"]["init_difference"] is None
    assert not forgetting.largest_ratio([0.0, float("nan"), 1.0], [1.0, 1.0, 1.0]).measured
    assert forgetting.largest_ratio([0.0, 1.0], [0.0, 1.0]).value == 1


def test_evaluations_say_what_each_layer_learns_and_keep_some_captions(tmp_path) -> None:
    run = ran(tmp_path, "identity", "connectivity", own={"connectivity": ("training.fit.eval_every=2",)})[
        "connectivity"
    ]
    folder = RunDir(run.path / "training")
    lines = [line for line in folder.read_log() if line["kind"] == "eval"]
    assert [line["step"] for line in lines] == [2, 3]
    names = {"projector", "fusion", "layer_1", "layer_2"}
    assert all(line[f"{name}_gradient_norm"] > 0 for line in lines for name in names)
    assert {f"{name}_gradient_norm" for name in names} <= set(run.read_json("layers.json"))
    said = folder.read_json("said.json")
    assert set(said) == {"2", "3"}
    assert all(set(row) == {"reference", "said"} for rows in said.values() for row in rows)


def test_a_layer_that_learns_nothing_shows_in_its_norm(tmp_path, monkeypatch) -> None:
    first = ran(tmp_path, "identity")["identity"]
    config = STUDY.phase("phase1").preset(SMOKE)
    lm, some = open_language("own", config.language, first, "cpu"), open_sounds(first, "train")
    heard = retention.moved(new_listener(config.listener, some, lm, 0), 0.1, 0).eval()
    batch = training.caption_batch(lm, some, range(4), config.language.prompt)
    at_once, loss = [], measures.caption_loss
    monkeypatch.setattr(
        measures, "caption_loss", lambda lm, heard, clips: at_once.append(len(clips.ids_BN)) or loss(lm, heard, clips)
    )
    whole = measures.gradient_norms(lm, heard, batch)
    assert at_once == [1] * 4, "clip by clip, whatever memory holds"
    assert len(set(batch.counted_BN.sum(1).tolist())) > 1, "captions of several lengths: each token counts alike"
    training.caption_loss(lm, heard, batch).backward()
    plain = {
        name: torch.stack([p.grad.square().sum() for p in part.parameters()]).sum().sqrt().item()
        for name, part in (("projector", heard.projector), ("layer_2", heard.fusion.blocks["2"]))
    }
    assert {name: whole[f"{name}_gradient_norm"] for name in plain} == pytest.approx(plain)
    layers = [whole[f"layer_{i}_gradient_norm"] for i in (1, 2)]
    assert math.hypot(*layers) == pytest.approx(whole["fusion_gradient_norm"])
    heard.requires_grad_(False)
    assert measures.gradient_norms(lm, heard, batch) == pytest.approx(whole)
    assert not any(p.requires_grad for p in heard.parameters()), "and an average stays one"
    with torch.no_grad():
        for parameter in heard.fusion.blocks["2"].parameters():
            parameter.zero_()
    shut = measures.gradient_norms(lm, heard, batch)
    assert shut["layer_2_gradient_norm"] < 1e-9 < shut["layer_1_gradient_norm"]


def third_time_a_fault(states):
    left = iter((1, 1))

    def read(lm, ids_BN):
        if not next(left, 0):
            raise RuntimeError("another fault")
        return states(lm, ids_BN)

    return read


def test_the_frozen_model_reads_other_text_once_and_the_term_is_the_divergence(tmp_path, monkeypatch) -> None:
    first = ran(tmp_path, "identity")["identity"]
    config = STUDY.phase("retention").preset(SMOKE)
    lm, some = open_language("own", config.language, first, "cpu"), open_sounds(first, "train")
    heard = retention.moved(new_listener(config.listener, some, lm, 0), 0.1, 0).eval()
    kept = retention.Retention.of("soft", 1.0, lm, heard, some, 0)
    batch = training.caption_batch(lm, some, range(4), config.language.prompt)
    read, states = [], retention.caption_states
    monkeypatch.setattr(retention, "caption_states", lambda lm, ids_BN: read.append(len(ids_BN)) or states(lm, ids_BN))
    for step in (0, 1):
        found = kept.terms(heard, batch, step)["soft"]
        rows = retention.drawn(0, retention.TEXTS, retention.positions_of(step, 0, 1, 4))
        text = kept._text([kept._texts[i] for i in rows], batch.features_BTF, batch.heard_BT)
        logs = [
            log_BNV[:, :-1][text.own_BN[:, 1:]]
            for log_BNV in (kept._log_chances(None, text), kept._log_chances(heard, text))
        ]
        plain = (logs[0].exp() * (logs[0] - logs[1])).sum(1).mean()
        assert float(found.detach()) == pytest.approx(float(plain.detach()), rel=1e-3)
        assert float(found.detach()) > 0
    whole = kept._frozen_states()
    full, tight = retention.caption_states, []

    def memory_for_40(lm, ids_BN):
        tight.append(len(ids_BN))
        if len(ids_BN) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return full(lm, ids_BN)

    again = retention.Retention.of("soft", 1.0, lm, heard, some, 0)
    count = sum(read)
    with monkeypatch.context() as patch:
        patch.setattr(retention, "caption_states", memory_for_40)
        halved = again._frozen_states()
    assert tight == [64] + [32] * (retention.TEXTS // 32)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(halved, whole, strict=True))
    broken = retention.Retention.of("soft", 1.0, lm, heard, some, 0)
    monkeypatch.setattr(retention, "caption_states", third_time_a_fault(full))
    with pytest.raises(RuntimeError, match="another fault"):
        broken._frozen_states()
    assert broken._frozen == [], "a part of the texts is not taken for all"
    assert count == retention.TEXTS + 2 * 3 * 4, "all texts once, and each step the listener's (twice here by hand)"
