"""The tiers of the plan and what they open, the score's own control, what a prompt begins with, and what was asked."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

from inscape.compressors import teaching_examples
from inscape.compressors.memory_cache import MemoryCache
from inscape.compressors.pca import Pca
from inscape.compressors.teaching_examples import ANSWERS
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Gate, Outcome
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, resume, run_study
from inscape.core.standing import is_open, judge
from inscape.core.study import SMOKE, Study
from inscape.metrics import qa
from inscape.metrics.kept_share import kept_share, mean_difference
from inscape.report.record import hashes_in
from inscape.studies import study
from inscape.studies.prompt_compression import asking, instrument, reconstruction, scoring, sequences
from inscape.studies.prompt_compression.asking import AskingConfig, QuestionData

STUDY = study("prompt-compression")
PASS, PARTIAL, FAIL, INVALID = Outcome.PASS, Outcome.PARTIAL, Outcome.FAIL, Outcome.INVALID


def ran(root: Path, code: str, *overrides: str, of: Study = STUDY, preset: str = SMOKE) -> RunDir:
    request = Request(preset=preset, device="cpu", root=root, overrides=overrides)
    return run_study(of, [of.phase(code)], request, lambda line: None, lambda run: None)[0]


# --- the plan's tiers ---------------------------------------------------------------------------------------------


def at_the_bounds(gate: Gate, **measured: float) -> Callable:
    """A run that measures what its gate asks, each at its bound, but for what is given."""
    values = {criterion.metric: criterion.bound for criterion in gate.criteria} | measured
    return lambda context: {name: exact(value, 99, "contexts") for name, value in values.items()}


@pytest.mark.parametrize(
    ("f1", "kept", "plan", "ours", "outcome", "opens"),
    [
        (0.8, 0.95, PASS, PASS, PASS, False),  # there is nothing to mend
        (0.8, 0.85, PASS, FAIL, FAIL, True),  # validated by the plan, short of ours
        (0.6, 0.95, PARTIAL, PASS, PARTIAL, True),  # the plan's second tier
        (0.6, 0.75, PARTIAL, FAIL, FAIL, True),
        (0.4, 0.5, FAIL, FAIL, FAIL, True),
        (0.8, 0.95, FAIL, PASS, FAIL, None),  # rows that are off and answer all the same: not what perplexity mends
    ],
)
def test_the_tiers_of_the_plan_open_its_second_phase(f1, kept, plan, ours, outcome, opens, tmp_path) -> None:
    off = {"recon_cosine": 0.5} if opens is None else {}
    measured = {"C0": {}, "C1": {"f1": f1, "f1_kept": kept, **off}}
    phases = [
        replace(phase, run=at_the_bounds(phase.gate, **measured[phase.code])) if phase.code in measured else phase
        for phase in STUDY.phases
    ]
    planted = replace(STUDY, phases=tuple(phases))
    ran(tmp_path, "C0", of=planted, preset="quick")
    verdict = judge(ran(tmp_path, "C1", of=planted, preset="quick"))
    assert (verdict.outcome_of("plan"), verdict.outcome_of("calibrated"), verdict.outcome) == (plan, ours, outcome)
    assert is_open(planted, planted.phase("C2"), "quick", tmp_path).open is bool(opens)


def test_an_instrument_that_fails_opens_no_second_phase(tmp_path) -> None:
    broken = at_the_bounds(reconstruction.GATE, f1=0.6, travels_alone=0.0)
    phases = [replace(STUDY.phase("C0"), run=at_the_bounds(instrument.GATE)), replace(STUDY.phase("C1"), run=broken)]
    planted = replace(STUDY, phases=(*phases, *STUDY.phases[2:]))
    for code in ("C0", "C1"):
        run = ran(tmp_path, code, of=planted, preset="quick")
    assert judge(run).outcome is INVALID
    assert not is_open(planted, planted.phase("C2"), "quick", tmp_path).open


# --- what shares of F1 are worth ----------------------------------------------------------------------------------


def planted(code: str, gold: str, measured: dict[str, Estimate]) -> dict[str, Outcome]:
    """What each criterion says where everything else lies at its bound."""
    phase = STUDY.phase(code)
    gate = phase.gate_of(phase.config(asking=AskingConfig(gold=gold)))
    metrics = {c.metric: exact(c.bound, 300, "contexts") for c in gate.criteria}
    assert gate.judge(metrics).outcome is PASS
    return {f.criterion.metric: f.outcome for f in gate.judge(metrics | measured).findings}


@pytest.mark.parametrize("gold", ["own", "given"])
@pytest.mark.parametrize("code", ["C0", "C1", "C2", "C3", "C4"])
def test_nothing_keeps_nine_tenths_where_an_empty_context_does(code: str, gold: str) -> None:
    """An empty context answers 255 of 300 questions as the whole text does, and 45 half: so does what sends nothing."""
    text, empty = [1.0] * 300, [1.0] * 255 + [0.5] * 45
    kept = kept_share(empty, text)
    assert kept.low > 0.9, "it would be a success"
    measured = {
        "f1_kept": kept,
        "gain_of_context": mean_difference(text, empty),
        "empty_f1_kept": kept_share(empty, text, mostly_whole=True),
    }
    found = planted(code, gold, measured)
    assert found.pop("empty_f1_kept") is (FAIL if code == "C0" else INVALID)
    assert set(found.values()) == {PASS}, "and nothing else sees it"


@pytest.mark.parametrize("questions", [60, 300, 1000])
def test_vectors_that_answer_as_truncation_does_have_not_beaten_it(questions: int) -> None:
    scores = [1.0, 0.0, 0.4] * (questions // 3)
    gain = mean_difference(scores, scores, mostly_whole=True)
    assert planted("C4", "own", {"gain_over_truncation": gain})["gain_over_truncation"] is not PASS


@pytest.mark.parametrize("preset", ["quick", "small", "full"])
def test_every_preset_asks_at_the_ratio_that_the_gate_is_about(preset: str) -> None:
    phase = STUDY.phase("C3")
    config = phase.preset(preset)
    bounds = {c.metric: c.bound for c in phase.gate_of(config).criteria if c.metric.startswith("ratio_keeping")}
    assert set(bounds) == {"ratio_keeping_90", "ratio_keeping_90_in_fewer_vectors"}
    assert set(bounds.values()) <= set(config.ratios)


# --- the official score -------------------------------------------------------------------------------------------


def of_sets(prediction: str, reference: str) -> float:
    """The historic mistake."""
    one, other = (set(qa.normalise_answer(text).split()) for text in (prediction, reference))
    return 2 * len(one & other) / (len(one) + len(other)) if one & other else 0.0


def test_the_official_score_is_the_official_score() -> None:
    assert instrument.score_official().value == 1


@pytest.mark.parametrize("scorer", [qa, scoring], ids=["means", "questions"])
def test_words_counted_as_a_set_are_caught_wherever_runs_are_scored(scorer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(scorer, "f1", of_sets)
    run = ran(tmp_path, "C0")
    assert judge(run).outcome is INVALID
    broken = {f.criterion.metric for f in judge(run).findings if f.outcome is INVALID}
    assert broken == {"score_official"}, "no other control sees it"


def test_the_first_gold_answer_alone_is_caught(monkeypatch) -> None:
    monkeypatch.setattr(qa, "metric_max_over_references", lambda metric, said, gold: metric(said, gold[0]))
    assert instrument.score_official().value < 1


# --- what a prompt begins with ------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["<begin> $A", "<begin> $A <begin>"])
def test_a_prompt_begins_as_the_tokenizer_begins_a_text(template: str) -> None:
    config = AskingConfig(model="tiny", new_tokens=8)
    plain = asking.open_model(config, "cpu")
    tokenizer = copy.deepcopy(plain.tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[("<begin>", plain.end_ids[0])]
    )
    lm = plain._replace(tokenizer=tokenizer)
    assert (plain.begin_ids, lm.begin_ids, lm.encode("a")) == ((), plain.end_ids, plain.encode("a"))
    questions = asking.held_out_questions(QuestionData(), 3)
    without, begun = asking.prompts_of(plain, questions, config), asking.prompts_of(lm, questions, config)
    for one, other in zip(without, begun, strict=True):
        assert other.prefix_ids == plain.end_ids + one.prefix_ids
        assert (other.context_ids, other.suffix_ids) == (one.context_ids, one.suffix_ids)
    assert instrument.replay(lm, begun, asking.listen_to_text(lm, begun, config), config).value == 1
    assert instrument.questions_cut(lm, begun).value == 0


# --- what was trained on and asked --------------------------------------------------------------------------------


def test_what_is_watched_is_drawn_besides_what_is_trained_on(tmp_path, monkeypatch) -> None:
    ran(tmp_path, "C0")
    fit, fitted_on = Pca.fit, []
    monkeypatch.setattr(
        Pca, "fit", lambda pca, lm, ids, **told: fitted_on.append(len(ids)) or fit(pca, lm, ids, **told)
    )
    ran(tmp_path, "C1", "baselines=[]", "watched=5", "adapter.epochs=0.2")
    assert fitted_on == [24], "all that `train` says"


def test_a_run_names_what_it_trained_on_and_asked_by_hash(tmp_path) -> None:
    def found(*overrides: str) -> dict[str, str]:
        run = ran(tmp_path, "C0", *overrides)
        assert run.read_json("questions.json")["train"]["questions"] == 8
        assert run.read_json("questions.json")["held_out"]["questions"] == 12
        return {name: value for name, value in hashes_in(run.path, {}).items() if name.startswith("questions.")}

    first = found()
    assert set(first) == {"questions.train.sha256", "questions.held_out.sha256"}
    assert first == found("asking.gold=given", "asking.new_tokens=9"), "whatever counts as right"
    other = found("data.facts_to=8")
    assert all(first[name] != other[name] for name in first)


def test_the_teacher_ends_with_its_line_and_is_not_asked_again_by_a_run_that_is_resumed(tmp_path, monkeypatch) -> None:
    ran(tmp_path, "C0")
    monkeypatch.setattr(sequences, "line_is_over", lambda lm: lambda ids: len(ids) == 2)
    distilled = MemoryCache.distilled
    monkeypatch.setattr(MemoryCache, "distilled", lambda *given, **named: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path, "C4", "asking.new_tokens=5")
    (path,) = tmp_path.rglob("C4/smoke/*")
    run = RunDir.open(path)
    assert {len(ids) for ids in run.read_json(ANSWERS)["answers"]} <= {1, 2}, "of five"
    monkeypatch.setattr(MemoryCache, "distilled", distilled)
    monkeypatch.setattr(teaching_examples, "generate_rows", lambda *a, **k: pytest.fail("the teacher was asked again"))
    resume(STUDY, run, lambda run: None)
    assert run.finished
    assert run.read_json("questions.json")["train"]["questions"] == 24
