"""The prompt-compression study in planted worlds: a model whose own answers are the gold ones must pass, noise must
fail, and each historic mistake must be caught by a control.

The model is the tiny one with random weights. It knows nothing, so the gold answers are those that it writes itself
when it reads the whole text (asking.gold=own): the text run is always right, and whatever changes what is read shows.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch

from inscape.compressors import adapter as adapters
from inscape.compressors import id_equivalence, truncation
from inscape.compressors.controls import Replay
from inscape.compressors.interface import Injected
from inscape.compressors.pca import Pca
from inscape.core.estimate import Estimate
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, resume, run_study
from inscape.core.standing import judge
from inscape.core.study import SMOKE
from inscape.studies import study
from inscape.studies.prompt_compression import (
    asking,
    frontier,
    instrument,
    perplexity,
    reconstruction,
    scoring,
    sequences,
)
from inscape.studies.prompt_compression import lessons as lessons_of
from inscape.studies.prompt_compression.asking import AskingConfig, QuestionData, listen
from inscape.studies.prompt_compression.frontier import DECIDES, Point, largest_ratio, ratios_kept

STUDY = study("prompt-compression")
ASKED = 40


def ran(tmp_path, *codes: str, overrides: tuple[str, ...] = ()) -> dict[str, RunDir]:
    request = Request(
        preset=SMOKE,
        device="cpu",
        root=tmp_path,
        overrides=(f"asking.questions={ASKED}", "asking.new_tokens=8", *overrides),
    )
    runs = [run_study(STUDY, [STUDY.phase(code)], request, lambda line: None, lambda run: None)[0] for code in codes]
    return dict(zip(codes, runs, strict=True))


def found(run: RunDir, *, without: tuple[str, ...] = ()) -> set[str]:
    """Metrics of criteria that did not pass."""
    return {f.criterion.metric for f in judge(run).findings if f.outcome is not Outcome.PASS} - set(without)


# --- planted and empty worlds -------------------------------------------------------------------------------------


def test_a_model_that_answers_from_its_text_passes_the_instrument(tmp_path) -> None:
    run = ran(tmp_path, "C0")["C0"]
    assert judge(run).outcome is Outcome.PASS
    metrics = run.read_json(RunDir.METRICS)
    assert metrics["text_f1"]["value"] == 1
    assert metrics["id_equivalence"]["value"] == 1
    assert {"id_equivalence_at_1", "id_equivalence_at_8"} <= set(metrics)
    assert {"token ids", "coded ids", "UTF-8"} <= set(run.read_json("ledger.json")["forms"])


def test_a_model_that_does_not_know_the_answers_fails_it(tmp_path) -> None:
    run = ran(tmp_path, "C0", overrides=("asking.gold=given",))["C0"]
    assert found(run) == {"text_f1", "gain_of_context", "empty_f1_kept"}
    assert run.read_json(RunDir.METRICS)["text_gold_f1"]["value"] == 0


def test_rows_that_are_not_the_prompts_own_are_caught(tmp_path, monkeypatch) -> None:
    rows = asking.LanguageModel.rows
    monkeypatch.setattr(asking.LanguageModel, "rows", lambda lm, ids: rows(lm, [30] * len(ids)))
    run = ran(tmp_path, "C0")["C0"]
    assert "replay_identical" in found(run)
    assert judge(run).outcome is Outcome.INVALID


def test_rows_that_are_whole_keep_every_answer_and_narrow_ones_of_noise_do_not(tmp_path) -> None:
    ran(tmp_path, "C0")
    exact = ("wire=float32", "adapter.start=linear", "adapter.lr=1e-12", "adapter.dropout=0.0")
    whole = ran(tmp_path, "C1", overrides=("ratio=1", *exact))["C1"]
    assert found(whole) == {"loss_over_first"}, "there is nothing to learn"
    assert whole.read_json(RunDir.METRICS)["f1_kept"]["value"] == 1
    assert whole.read_json(RunDir.METRICS)["explained_variance_held_out"]["value"] == pytest.approx(1)
    narrow = ran(tmp_path, "C1", overrides=("ratio=16", *exact))["C1"]
    assert judge(narrow).outcome is Outcome.FAIL
    assert {"f1", "f1_kept", "recon_cosine"} <= found(narrow)
    assert narrow.read_json(RunDir.METRICS)["explained_variance_held_out"]["value"] < 0.7
    assert not found(narrow) & {c.metric for c in reconstruction.CONTROLS}


@pytest.mark.parametrize("cut", ["none", "some", "all"])
def test_text_that_was_not_cut_is_not_asked_again(monkeypatch, cut: str) -> None:
    config = AskingConfig(model="tiny", questions=8, new_tokens=8, gold="own")
    lm = asking.open_model(config, "cpu")
    prompts, text = asking.ask(lm, QuestionData(), config)
    middle = sorted(len(prompt.context_ids) for prompt in prompts)[len(prompts) // 2]
    whole = {"none": math.inf, "some": middle, "all": 0}[cut]  # contexts up to this length keep all their tokens
    monkeypatch.setattr(Replay, "bits", lambda self, sent: (100 if sent.tokens <= whole else 5) * sent.tokens)
    asked = []
    monkeypatch.setattr(scoring, "listen", lambda lm, fed, config: asked.extend(fed) or listen(lm, fed, config))
    shortened = truncation.EqualBits(Replay())
    heard = scoring.tell(lm, shortened, prompts, config, text).heard
    assert len(asked) == sum(len(prompt.context_ids) > whole for prompt in prompts)
    assert heard == scoring.tell(lm, shortened, prompts, config).heard, "as if every one had been asked"
    assert (heard.answers == text.answers) == (cut == "none")


def test_the_second_phase_goes_on_from_the_first_and_resumes_bit_for_bit(tmp_path, monkeypatch) -> None:
    first = ran(tmp_path, "C0", "C1")["C1"]
    whole = ran(tmp_path, "C2")["C2"]
    terms = perplexity.balanced

    def torn(lm, ids):
        inner = terms(lm, ids)

        def stop(module, rows, batch, step):
            if step == 3:
                raise KeyboardInterrupt
            return inner(module, rows, batch, step)

        return stop

    monkeypatch.setattr(perplexity, "balanced", torn)
    before = set(tmp_path.rglob("C2/smoke/*"))
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path, "C2")
    (path,) = set(tmp_path.rglob("C2/smoke/*")) - before
    monkeypatch.setattr(perplexity, "balanced", terms)
    run = RunDir.open(str(path))
    resume(STUDY, run, lambda run: None)
    files = [each.path / reconstruction.ADAPTER for each in (whole, run)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != (first.path / reconstruction.ADAPTER).read_bytes()
    assert whole.read_json(RunDir.METRICS)["f1_before"]["value"] == first.read_json(RunDir.METRICS)["f1"]["value"]


def test_the_fall_of_a_loss_that_is_divided_by_its_own_mean_is_measured_by_the_loss_itself(tmp_path) -> None:
    first = ran(tmp_path, "C0", "C1")["C1"]
    lm = asking.open_model(AskingConfig(model="tiny"), "cpu")
    before = adapters.Adapter.load(first.path / reconstruction.ADAPTER)
    ids = [torch.arange(3, 40), torch.arange(20, 30)]
    same = perplexity.losses_over_first(lm, before, before, ids)
    assert {name: estimate.value for name, estimate in same.items()} == dict.fromkeys(same, pytest.approx(1))
    module = copy.deepcopy(before.module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3)
    worse = adapters.Adapter(before.inner, before.config, module)
    risen, fallen = (perplexity.losses_over_first(lm, *pair, ids) for pair in ((before, worse), (worse, before)))
    assert risen["recon_over_first"].value > 1 > fallen["recon_over_first"].value
    assert risen["loss_over_first"].value > 1 > fallen["loss_over_first"].value
    assert fallen["recon_over_first"].value == pytest.approx(1 / risen["recon_over_first"].value)


def test_the_frontier_says_how_far_each_can_go(tmp_path) -> None:
    ran(tmp_path, "C0")
    run = ran(tmp_path, "C3", overrides=("ratios=[1.0,2.0]", "compressors=[pca,truncation,kv_attention]"))["C3"]
    metrics = run.read_json(RunDir.METRICS)
    assert metrics["replay_identical"]["value"] == 1
    assert metrics["ratio_keeping_90_in_fewer_vectors"]["value"] in [
        metrics[f"ratio_keeping_90_{name}"]["value"] for name in ("truncation", "kv_attention")
    ]
    for row in run.read_json("frontier.json"):
        shown, deciding = row["f1_kept"], row["f1_kept_of_many"]
        assert deciding["value"] == shown["value"]
        widths = [estimate["high"] - estimate["low"] for estimate in (shown, deciding)]
        assert widths[0] < widths[1], "one of three ways is chosen"
    assert "ratio_keeping_90_in_fewer_vectors" in found(run), "rows half as wide save no place of the window"
    assert metrics["ratio_keeping_95_truncation"]["value"] >= 1, "all tokens are the text"
    assert metrics["ratio_keeping_95_kv_attention"]["value"] >= 1
    assert (run.path / "frontier.csv").read_text().count("\n") == 1 + 6
    assert (run.figures / "frontier.png").is_file()


def test_ratios_and_their_intervals() -> None:
    def point(ratio: float, low: float, value: float, high: float) -> Point:
        return Point("x", ratio, {"f1_kept": Estimate(value, low, high, 9, "contexts")})

    points = [point(1, 1, 1, 1), point(2, 0.9, 0.97, 1), point(4, 0.5, 0.93, 0.96), point(8, 0.1, 0.2, 0.3)]
    assert [largest_ratio(points, level).value for level in (0.95, 0.9, 0.8)] == [2, 4, 4]
    assert (largest_ratio(points, 0.95).low, largest_ratio(points, 0.95).high) == (1, 4)
    assert largest_ratio(points[3:], 0.9).value == 0
    again = [*points, point(16, 0.97, 0.98, 1)]
    assert largest_ratio(again, 0.9).value == 4, "what is lost at a smaller ratio is not kept at a larger one"


def test_the_best_of_several_ways_is_judged_by_intervals_for_several() -> None:
    def point(name: str, value: float, low: float, of_many: float) -> Point:
        estimates = {"f1_kept": Estimate(value, low, 1, 9, "c"), DECIDES: Estimate(value, of_many, 1, 9, "c")}
        return Point(name, 2, estimates)

    lucky, sure, trained = "pca", "truncation", "trained_adapter"
    ways = [point(lucky, 0.97, 0.91, 0.89), point(sure, 0.96, 0.93, 0.91), point(trained, 1, 1, 1)]
    metrics, deciding = ratios_kept({way.name: [way] for way in ways})
    assert metrics[f"ratio_keeping_90_{lucky}"].low == 2, "shown as if it were the only one"
    assert (metrics["ratio_keeping_90"].low, deciding) == (2, {(sure, 2)})
    alone, _ = ratios_kept({lucky: ways[:1]})
    assert (alone["ratio_keeping_90"].low, alone["ratio_keeping_90"].value) == (0, 2)


def test_what_surely_keeps_too_little_is_not_asked_at_larger_ratios(tmp_path) -> None:
    ran(tmp_path, "C0")
    words = ("ratios=[2.0,8.0,16.0]", "compressors=[random_orthogonal]", "asking.questions=12")
    rows = {}
    for give_up in (0.0, 0.79):
        run = ran(tmp_path, "C3", overrides=(*words, f"give_up={give_up}"))["C3"]
        rows[give_up] = [row["ratio"] for row in run.read_json("frontier.json")]
    lost = [row["ratio"] for row in run.read_json("frontier.json") if row["f1_kept"]["high"] < 0.79]
    assert rows[0.0] == [2, 8, 16]
    assert lost, "a random projection to a half loses a random model's answers"
    assert rows[0.79] == [2, 8, 16][: len(rows[0.79])]
    assert rows[0.79][-1] == lost[0] < 16
    assert len(lost) == 1


@pytest.mark.parametrize("share", ["0.8", "-0.1"])
def test_nothing_that_a_level_asks_for_can_be_given_up(share, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"give_up=-?0\.\d is out of range; allowed: from 0 to below 0\.8"):
        ran(tmp_path, "C3", overrides=(f"give_up={share}",))


def test_sequences_are_trained_and_measured_beside_truncation(tmp_path) -> None:
    ran(tmp_path, "C0")
    for kind in sequences.KINDS:
        run = ran(tmp_path, "C4", overrides=(f"kind={kind}",))["C4"]
        metrics = run.read_json(RunDir.METRICS)
        assert metrics["tokens_per_vector"]["value"] >= 4
        assert metrics["replay_identical"]["value"] == 1
        assert ASKED - 5 <= metrics["f1"]["n"] <= ASKED, "but for empty answers"
        assert (run.path / sequences.COMPRESSOR).is_file()


def test_a_model_that_is_taught_first_is_the_one_that_is_asked_and_travels(tmp_path, monkeypatch) -> None:
    ran(tmp_path, "C0")
    lessons = ("reader.train=24", "reader.batch=2", "reader.rank=2", "reader.fit.steps=3", "reader.fit.warmup_steps=0")
    plain = ran(tmp_path, "C4", overrides=("asking.gold=given",))["C4"]
    first = ran(tmp_path, "C4", overrides=("asking.gold=given", *lessons))["C4"]
    answers = [run.read_json("answers.json") for run in (plain, first)]
    assert [row["text"] for row in answers[0]] != [row["text"] for row in answers[1]], "another model reads the text"
    assert first.read_json(RunDir.METRICS)["replay_identical"]["value"] == 1
    monkeypatch.setattr(lessons_of, "teach", lambda *a, **k: pytest.fail("it was taught again"))
    file = first.path / lessons_of.READER
    again = ran(tmp_path, "C4", overrides=("asking.gold=given", f"reader.path={file}"))["C4"]
    assert again.read_json("answers.json") == answers[1]
    with pytest.raises(ValueError, match="ratio=5000 leaves no vector"):  # before any lesson, which would fail here
        ran(tmp_path, "C4", overrides=("asking.gold=given", *lessons, "ratio=5000"))
    with pytest.raises(ValueError, match="a compressor of kind 'memory_cache', wanted 'reader'"):
        ran(tmp_path, "C4", overrides=(f"reader.path={first.path / sequences.COMPRESSOR}",))
    with pytest.raises(ValueError, match=r"is a reader already: set reader\.train=0"):
        ran(tmp_path, "C4", overrides=(f"reader.path={file}", "reader.train=8"))


# --- historic mistakes, each caught by a control ------------------------------------------------------------------


def test_slicing_the_prompt_off_what_rows_gave_is_caught(tmp_path, monkeypatch) -> None:
    generate = asking.generate_rows

    def sliced(lm, rows, **told):
        return [ids[len(row) :] for ids, row in zip(generate(lm, rows, **told), rows, strict=True)]

    monkeypatch.setattr(asking, "generate_rows", sliced)
    with pytest.raises(ValueError, match="tiny writes nothing to 40 of 40 questions"):
        ran(tmp_path, "C0")
    run = ran(tmp_path, "C0", overrides=("asking.gold=given",))["C0"]
    assert judge(run).outcome is Outcome.INVALID
    assert {"replay_identical", "nothing_written"} <= found(run)


def test_cutting_the_end_of_the_prompt_is_caught(tmp_path, monkeypatch) -> None:
    build = asking.build_prompt

    def cut(question, encode, *, max_tokens, begin):
        whole = build(question, encode, max_tokens=10**6, begin=begin)
        return whole._replace(ids=whole.ids[: len(whole.ids) // 2])

    monkeypatch.setattr(asking, "build_prompt", cut)
    run = ran(tmp_path, "C0")["C0"]
    assert judge(run).outcome is Outcome.INVALID
    assert "questions_cut" in found(run)


def test_norms_of_the_original_rows_are_caught(tmp_path, monkeypatch) -> None:
    ran(tmp_path, "C0")
    compress, inject = adapters.Adapter.compress, adapters.Adapter.inject
    seen: list[torch.Tensor] = []

    def watching(self, lm, ids_T):
        seen.append(lm.table_VD[ids_T].norm(dim=1))
        return compress(self, lm, ids_T)

    def oracle(self, lm, compressed):
        row_TD = inject(self, lm, compressed).rows_MD
        norm_T = seen[-1][: len(row_TD)]
        return Injected(row_TD * (norm_T / row_TD.norm(dim=1))[:, None])

    monkeypatch.setattr(adapters.Adapter, "compress", watching)
    monkeypatch.setattr(adapters.Adapter, "inject", oracle)
    run = ran(tmp_path, "C1")["C1"]
    assert judge(run).outcome is Outcome.INVALID
    assert "travels_alone" in found(run)


@pytest.mark.parametrize("code", ["C0", "C1", "C3"])
def test_answers_that_are_cut_short_alike_in_every_run_are_caught(code: str, tmp_path, monkeypatch) -> None:
    ran(tmp_path, "C0")
    generate = asking.generate_rows
    monkeypatch.setattr(asking, "generate_rows", lambda *rows, **told: [ids[:-3] for ids in generate(*rows, **told)])
    run = ran(tmp_path, code)[code]
    assert "replay_identical" in found(run)
    assert judge(run).outcome is Outcome.INVALID


def test_components_of_too_few_rows_are_caught(tmp_path, monkeypatch) -> None:
    ran(tmp_path, "C0")
    fit = Pca.fit
    monkeypatch.setattr(Pca, "fit", lambda pca, lm, ids, **told: fit(pca, lm, [ids[0][:9], ids[1][:9]], **told))
    run = ran(tmp_path, "C1", overrides=("ratio=4",))["C1"]
    assert "explained_gap" in found(run)
    assert judge(run).outcome is Outcome.INVALID


def test_numbers_that_are_sent_too_coarsely_to_tell_tokens_apart_are_caught(tmp_path, monkeypatch) -> None:
    ran(tmp_path, "C0")
    monkeypatch.setattr(id_equivalence, "as_sent", lambda latent, wire: latent.mul(4).round().div(4))
    run = ran(tmp_path, "C1", overrides=("ratio=16",))["C1"]
    assert "id_equivalence" in found(run)
    assert judge(run).outcome is Outcome.INVALID


def test_a_text_run_by_another_decoder_is_caught(tmp_path, monkeypatch) -> None:
    listen = asking.listen_to_text
    shorter = {"new_tokens": 4}
    monkeypatch.setattr(asking, "listen_to_text", lambda lm, prompts, config: listen(
        lm, prompts, replace(config, **shorter)))  # fmt: skip
    run = ran(tmp_path, "C0")["C0"]
    assert "replay_identical" in found(run)
    assert judge(run).outcome is Outcome.INVALID


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: QuestionData(facts_from=1), r"data.facts_from=1.*allowed: 2 to 30"),
        (lambda: QuestionData(facts_from=9, facts_to=3), "the first not above the second"),
        (lambda: AskingConfig(dtype="int3"), "asking.dtype='int3' is not known"),
        (lambda: AskingConfig(questions=0), "asking.questions=0 is out of range"),
        (lambda: AskingConfig(max_tokens=64, new_tokens=64), "leaves no room for a prompt"),
        (lambda: reconstruction.Config(ratio=0.5), "ratio"),
        (lambda: frontier.Config(compressors=("zip",)), "allowed: pca"),
        (lambda: frontier.Config(ratios=(4.0, 2.0)), "rising"),
        (lambda: sequences.Config(kind="zip"), "allowed: memory_cache, run_ends, memory_tokens, mean_pooled"),
        (lambda: sequences.Config(ratio=0.5), "ratio"),
        (lambda: sequences.Config(depth=1), "allowed: 0, since a cache has every layer"),
        (lambda: instrument.Config(widths=()), "widths"),
    ],
)
def test_impossible_settings_are_one_line(make, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_too_small_stops_before_anything_is_written(tmp_path) -> None:
    for name in ("missing.json", "small.json"):
        (tmp_path / "small.json").write_text('{"data": []}')
        with pytest.raises(ValueError, match=name):
            ran(tmp_path / "runs", "C0", overrides=(f"data.path={tmp_path / name}",))
        assert not (tmp_path / "runs").exists()


def test_a_ratio_that_cannot_be_met_leaves_no_run_behind(tmp_path) -> None:
    ran(tmp_path, "C0")
    with pytest.raises(ValueError, match="ratio 7 does not divide rows of 32 numbers; allowed: 1, 2, 4"):
        ran(tmp_path, "C1", overrides=("ratio=7",))
    assert not list(tmp_path.rglob("C1/smoke/*"))
