"""What cannot be run is refused in one line before anything is asked, and leaves no run behind; what can, is honoured.

`asked` counts how often the model was asked: a refusal that comes after hours of answers is none.
"""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from planted_questions import squad_file, titles
from tiny_questions import ran

from inscape.compressors.adapter import Adapter, AdapterConfig, train_adapter
from inscape.compressors.diagnostics import DIAGNOSTICS, read_diagnostics
from inscape.compressors.kv_pruning import KvPruning
from inscape.compressors.mean_pooled import MeanPooled
from inscape.compressors.pca import Pca
from inscape.compressors.quantised import Quantised
from inscape.core.rundir import RunDir
from inscape.data.questions import Question
from inscape.studies.prompt_compression import asking, frontier, reconstruction, sequences
from inscape.studies.prompt_compression.asking import AskingConfig, QuestionData


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of C0 and C1 to build on; the adapter of C1 is not the default one."""
    root = tmp_path_factory.mktemp("runs")
    ran(root, "C0")
    ran(root, "C1", "adapter.norms=stored", "adapter.hidden_mult=2", "adapter.dropout=0.25")
    return root


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts were answered each time."""
    counts: list[int] = []
    listen = asking.listen
    monkeypatch.setattr(asking, "listen", lambda lm, fed, config: counts.append(len(fed)) or listen(lm, fed, config))
    return counts


def refused(root: Path, code: str, line: str, *overrides: str) -> None:
    before = set(root.rglob("*"))
    with pytest.raises(ValueError, match=line) as caught:
        ran(root, code, *overrides)
    assert "\n" not in str(caught.value)
    assert set(root.rglob("*")) == before, "nothing is left behind"


# --- prompts that cannot be shuffled ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["C1", "C2", "C3", "C4"])
def test_a_file_of_one_article_cannot_be_shuffled_and_is_refused_before_a_model_is_opened(
    code, root, tmp_path, monkeypatch
) -> None:
    held_out, train = titles("test", 2), titles("train", 12)
    file = squad_file(tmp_path / "squad.json", {held_out[0]: 7, held_out[1]: 2} | dict.fromkeys(train, 4))
    monkeypatch.setattr(asking, "open_language_model", lambda *a, **k: pytest.fail("a model was opened"))
    words = (f"data.path={file}", "asking.questions=9")
    refused(root, code, "7 of 9 prompts are of one group.*of more articles or scenes", *words)


def test_questions_that_are_left_out_may_leave_too_few_groups(root, asked, monkeypatch) -> None:
    """Known only once the model was asked, and before it is trained."""
    heard = asking.listen_to_text

    def silent(lm, prompts, config):
        found = heard(lm, prompts, config)
        return found._replace(answers=[a if p.question.group == prompts[0].question.group else "" for a, p in zip(
            found.answers, prompts, strict=True)])  # fmt: skip

    alone = [
        Question(f"q{i}", f"The ball {i} is red.", "What is red?", ("a ball",), "a" if i < 3 else f"{i}")
        for i in range(9)
    ]
    monkeypatch.setattr(asking, "held_out_questions", lambda data, count: alone)
    monkeypatch.setattr(asking, "listen_to_text", silent)
    refused(root, "C1", "3 of 3 prompts are of one group")
    assert asked == [9], "and nothing else was asked"


# --- ratios -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("ratios=[5.0]", "compressors=[pca]"),
            r"none of pca keeps 5: ratio 5 does not divide rows of 32 .* 1, 2, 4, 8",
        ),
        (("ratios=[2.0,5.0]", "compressors=[pca,pca_int8]"), "ratios: none of pca, pca_int8 keeps 5: "),
        (
            ("ratios=[2.0,5000.0]", "compressors=[pca,truncation]"),
            "keeps 5000: .*tokens cannot be compressed 5000 times",
        ),
    ],
)
def test_a_ratio_that_no_compressor_keeps_is_refused_unasked(words, line, root, asked) -> None:
    refused(root, "C3", line, *words)
    assert not asked


def test_a_ratio_that_some_keep_is_left_out_for_the_others_and_said(root, capsys) -> None:
    run = ran(root, "C3", "ratios=[2.0,5.0]", "compressors=[pca,truncation]", "give_up=0.0")
    points = [(row["compressor"], row["ratio"]) for row in run.read_json("frontier.json")]
    assert points == [("pca", 2), ("truncation", 2), ("truncation", 5)]
    (missing,) = run.read_json("left_out.json")
    assert (missing["name"], missing["ratio"]) == ("pca", 5)
    assert "does not divide rows of 32" in missing["why"]
    said = "Left out, since they cannot be kept: pca at 5."
    assert said in capsys.readouterr().err
    assert said in run.read_json("figures/captions.json")["frontier.png"]


def test_points_are_kept_as_they_come(root, monkeypatch) -> None:
    fitted, made = frontier.fitted, []

    def broken(*given):
        made.append(given)
        if len(made) == 2:
            raise KeyboardInterrupt
        return fitted(*given)

    monkeypatch.setattr(frontier, "fitted", broken)
    before = set(root.rglob("frontier.json"))
    with pytest.raises(KeyboardInterrupt):
        ran(root, "C3", "ratios=[2.0]", "compressors=[pca,truncation]")
    (kept,) = set(root.rglob("frontier.json")) - before
    assert [row["compressor"] for row in json.loads(kept.read_text())] == ["pca"]
    assert kept.with_name("frontier.csv").read_text().count("\n") == 2


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words", "line"),
    [
        ("C0", ["widths=[64]"], r"widths=\(64,\) are all wider than the model's rows; allowed: 1 to 32"),
        ("C1", ["ratio=5"], "ratio 5 does not divide rows of 32 numbers"),
        (
            "C4",
            ["kind=memory_tokens", "depth=99"],
            r"depth=99 is out of range; allowed: 0 \(all\) to 2",
        ),
        ("C4", ["kind=mean_pooled", "depth=3"], "depth=3 is out of range"),
        ("C4", ["ratio=5000"], r"ratio=5000 leaves no vector for the context of question .* allowed: 1 to \d+"),
    ],
)
def test_what_the_model_or_the_contexts_do_not_allow_is_refused_unasked(code, words, line, root, asked) -> None:
    refused(root, code, line, *words)
    assert not asked


@pytest.mark.parametrize(
    ("code", "word", "line"),
    [
        ("C1", "adapter.hidden_mult=0", "hidden_mult=0 is out of range; allowed: 1 to 64"),
        ("C1", "adapter.dropout=1.0", "dropout=1.0 is out of range; allowed: at least 0 and below 1"),
        ("C1", "adapter.lr=0.0", "lr=0.0 is out of range; allowed: above 0"),
        ("C1", "adapter.weight_decay=-1.0", "weight_decay=-1.0 is out of range; allowed: 0 or more"),
        ("C1", "adapter.clip_norm=-1.0", "clip_norm=-1.0 is out of range; allowed: 0 or more"),
        ("C1", "adapter.log_every=0", "log_every=0 is out of range; allowed: 1 or more"),
        ("C2", "adapter.eval_every=-1", "eval_every=-1 is out of range; allowed: 0 or more"),
        ("C2", "adapter.checkpoint_every=-1", "checkpoint_every=-1 is out of range; allowed: 0 or more"),
        ("C1", "wire=int8", "wire='int8' is not known; allowed: float32, float16, bfloat16"),
        ("C1", "train=2", "train=2 is out of range; allowed: 3 to 10000000"),
        ("C4", "rank=5000", "rank=5000 is out of range; allowed: 0 to 4096"),
        ("C4", "train=1", "train=1 questions do not fill a batch of training.batch=2 contexts"),
        ("C4", "training.fit.lr=0.0", "lr=0.0 is out of range; allowed: above 0"),
        ("C3", "asking.on_long=drop", "asking.on_long='drop' is not known; allowed: refuse, cut"),
    ],
)
def test_settings_out_of_range_are_refused_before_a_model_is_opened(code, word, line, root, monkeypatch) -> None:
    monkeypatch.setattr(asking, "open_language_model", lambda *a, **k: pytest.fail("a model was opened"))
    refused(root, code, line, word)


def test_all_numbers_that_a_latent_may_be_sent_as_can_be_sent() -> None:
    lm = asking.open_model(AskingConfig(model="tiny"), "cpu")
    prompts = [torch.arange(4 + i, 60 + i) for i in range(4)]
    for wire in ("float32", "float16", "bfloat16"):
        config = reconstruction.Config(ratio=2.0, wire=wire)
        pca = Pca(config.ratio, wire=config.wire).fit(lm, prompts, seed=0)
        sent = pca.compress(lm, prompts[0])
        assert pca.bits(sent) == 56 * 16 * (32 if wire == "float32" else 16)
        assert pca.inject(lm, sent).rows_MD.isfinite().all()


# --- contexts that do not fit -------------------------------------------------------------------------------------


def test_contexts_that_do_not_fit_are_refused_unasked(root, asked) -> None:
    refused(root, "C0", "8 of 8 contexts do not fit", "asking.max_tokens=120")
    assert not asked


# --- C2 goes on from C1 -------------------------------------------------------------------------------------------


def test_the_second_phase_keeps_what_makes_the_adapter_of_the_first(root) -> None:
    run = ran(root, "C2", "adapter.epochs=0.2")
    first, second = (
        Adapter.load(r.path / reconstruction.ADAPTER) for r in (RunDir(run.read_json(RunDir.ENV)["inputs"]["C1"]), run)
    )
    assert (second.config.norms, second.config.hidden_mult, second.config.dropout) == ("stored", 2, 0.25)
    assert second.module is not None
    assert first.module is not None
    assert {n: w.shape for n, w in first.module.state_dict().items()} == {
        n: w.shape for n, w in second.module.state_dict().items()
    }
    bits = run.read_json(RunDir.METRICS)["bits_per_token"]["value"]
    assert bits == (32 / 8 + 1) * 16, "the norm travels, and is counted"


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("adapter.hidden_mult=3", "adapter.hidden_mult=3 is not what C1's adapter was made with, 2"),
        ("adapter.dropout=0.3", "adapter.dropout=0.3 is not what C1's adapter was made with, 0.25"),
        ("asking.model=tiny:1", "asking.model=tiny:1 is not the model of C1's adapter, tiny"),
    ],
)
def test_the_second_phase_refuses_another_adapter_than_the_first(word, line, root, monkeypatch) -> None:
    monkeypatch.setattr(asking, "open_language_model", lambda *a, **k: pytest.fail("a model was opened"))
    refused(root, "C2", line, word)


# --- other models -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without q_proj, rotary positions and linear layers: random weights over the tiny model's bytes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = asking.open_model(AskingConfig(model="tiny"), "cpu").tokenizer
    end = tokenizer.eos_token_id
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024, "initializer_range": 0.3}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **sizes))
    folder = tmp_path_factory.mktemp("gpt2")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("code", "words", "line", "remedy"),
    [
        ("C3", ["compressors=[pca,kv_attention,truncation]"], "kv_attention cannot be asked: .* 0 attend as Llama's do",
         "compressors=[pca,truncation]"),
        ("C3", ["compressors=[kv_attention]"], "kv_attention cannot", "compressors=[pca,pooled_rows,truncation]"),
        ("C4", [], "no linear map of the model is called q_proj", "set kind=mean_pooled depth=0 rank=0"),
        ("C4", ["kind=mean_pooled", "depth=1", "rank=0"], "keeps its layers in another place", "depth=0"),
    ],
)  # fmt: skip
def test_another_kind_of_model_is_refused_unasked_with_what_helps(code, words, line, remedy, root, gpt2, asked) -> None:
    refused(root, code, f"{line}.*{re.escape(remedy)}", f"asking.model={gpt2}", *words)
    assert not asked


def test_what_helps_with_another_kind_of_model_does(root, gpt2) -> None:
    words = (f"asking.model={gpt2}", "asking.gold=given")
    ways = "compressors=[pca,pooled_rows,mean_pooled_states,kv_key_norm,truncation]"
    run = ran(root, "C3", *words, ways, "ratios=[2.0]", "give_up=0.0")
    assert len(run.read_json("frontier.json")) == 5
    run = ran(root, "C4", *words, "kind=mean_pooled", "depth=0", "rank=0", "teacher=gold")
    assert MeanPooled.load(run.path / sequences.COMPRESSOR).layer == 2


# --- depth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "layer"), [(0, 2), (1, 1), (2, 2)])
def test_mean_pooling_of_depth_0_pools_the_last_layer(depth: int, layer: int, root) -> None:
    run = ran(root, "C4", "kind=mean_pooled", f"depth={depth}")
    assert MeanPooled.load(run.path / sequences.COMPRESSOR).layer == layer


# --- the ledger ---------------------------------------------------------------------------------------------------


def test_the_ledger_prices_rows_and_caches_as_their_compressors_do(root) -> None:
    (path,) = root.glob("prompt-compression/C0/smoke/*/ledger.json")
    costs = json.loads(path.read_text())
    bits = {form: each["bits_per_token"]["value"] for form, each in costs["forms"].items()}
    lm = asking.open_model(AskingConfig(model="tiny"), "cpu")
    prompts = [torch.arange(4 + i, 60 + i) for i in range(4)]

    def per_token(compressor) -> float:
        return compressor.bits(compressor.compress(lm, prompts[0])) / len(prompts[0])

    pca = {wire: Pca(4.0, wire=wire).fit(lm, prompts, seed=0) for wire in ("float32", "float16")}
    assert bits["8 x float32"] == per_token(pca["float32"]) == 256
    assert bits["8 x float16"] == per_token(pca["float16"]) == 128
    assert bits["8 x int8 with scales"] == per_token(Quantised(pca["float16"], 8)) == 80
    assert bits["8 x int4 with scales"] == per_token(Quantised(pca["float16"], 4)) == 48
    assert bits["keys and values, float32"] == per_token(KvPruning(1.0)) == 2 * 2 * 2 * 8 * 32
    assert {f"1 x {number}" for number in ("float32", "float16")} <= set(bits)
    assert not any(form.startswith("72 x") for form in bits), "wider than the rows"
    assert (path.parent / "figures" / "ledger.png").is_file()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="zstd is in the standard library")
def test_zstd_comes_with_the_extra(root) -> None:
    pytest.importorskip("zstandard")
    (path,) = root.glob("prompt-compression/C0/smoke/*/ledger.json")
    costs = json.loads(path.read_text())
    assert 0 < costs["forms"]["zstd"]["bits_per_token"]["value"] < costs["forms"]["UTF-8"]["bits_per_token"]["value"]
    assert costs["note"] == ""


# --- the diary ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["C1", "C2"])
def test_the_diary_ends_with_the_scores_of_the_run(code, root) -> None:
    run = ran(root, code, "adapter.epochs=1", "adapter.eval_every=0")
    *before, last = read_diagnostics(run.path / "training" / DIAGNOSTICS)
    metrics = run.read_json(RunDir.METRICS)
    assert (last["f1"], last["em"]) == (100 * metrics["f1"]["value"], 100 * metrics["exact_match"]["value"])
    assert before == []
    assert last["recon_mse"] > 0, "what the last evaluation knew stays"


@pytest.mark.parametrize(("gold", "right"), [("own", 100), ("given", 0)])
def test_questions_on_the_way_are_scored_as_those_of_the_run(gold, right, tmp_path) -> None:
    """Rows that are whole are answered as the text is: right by the model's own answers, wrong by those given."""
    config = AskingConfig(model="tiny", new_tokens=8, gold=gold)
    lm = asking.open_model(config, "cpu")
    watched = asking.prompts_of(lm, asking.training_questions(QuestionData(), 4, 0), config)
    ids = [asking.ids_of(lm, prompt) for prompt in watched]
    pca = Pca(1.0).fit(lm, ids, seed=0)
    adapter = AdapterConfig(start="linear", epochs=0.1, lr=1e-12, dropout=0.0)
    run = RunDir(tmp_path)
    evaluate = reconstruction.diary(run, lm, pca, adapter, len(ids), watched, config)
    module = train_adapter(lm, pca, ids, adapter, run, seed=0)
    assert evaluate(module, 1)["quick_f1"] == right
