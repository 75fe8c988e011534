"""The ways that C3 sets side by side: those made by name are what they are called, and those read from files are asked
beside them, decide nothing, and are refused in one line where they cannot be asked."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from tiny_questions import begun, controls, ran, tiny_world

from inscape.compressors.attention_matching import AttentionMatching
from inscape.compressors.controls import EmptyContext
from inscape.compressors.interface import Injected
from inscape.compressors.kv_pruning import KvPruning
from inscape.compressors.mean_pooled import MeanPooled, PooledEncoder
from inscape.compressors.memory_cache import CacheEncoder, MemoryCache
from inscape.compressors.memory_tokens import MemoryEncoder, MemoryTokens
from inscape.compressors.pca import Pca
from inscape.core.gate import Outcome
from inscape.core.rundir import RunDir
from inscape.nn.lora import linear_sizes
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.prompt_compression import asking, reconstruction, sequences, ways

root = pytest.fixture(begun, scope="module")
world = pytest.fixture(tiny_world, scope="module")


def test_pooled_rows_and_pooled_states_are_what_they_are_called(world) -> None:
    lm, prompts, _ = world
    known = ways.known_of(lm, prompts)
    rows, states = (ways.MAKERS[name](4.0, known) for name in ("pooled_rows", "mean_pooled_states"))
    assert isinstance(rows, MeanPooled)
    assert isinstance(states, MeanPooled)
    assert (rows.layer, states.layer) == (0, 2)
    assert "mean_pooled" not in ways.MAKERS


def test_matching_knows_questions_of_training_alone_spread_over_all_of_them(world) -> None:
    lm, prompts, _ = world
    known = ways.known_of(lm, prompts)
    matching = ways.MAKERS["kv_matching"](2.0, known)
    assert isinstance(matching, AttentionMatching)
    assert (matching.prefix, matching.questions) == (prompts[0].prefix_ids, known.questions)
    told = [(*p.suffix_ids, *lm.encode(p.question.answers[0])) for p in prompts]
    assert 2 <= len(known.questions) <= ways.QUESTIONS
    assert [told.index(each) for each in known.questions] == sorted(told.index(each) for each in known.questions)
    many = [prompts[i % len(prompts)] for i in range(100)]
    assert len(ways.known_of(lm, many).questions) == ways.QUESTIONS
    assert ways.known_of(lm, many).questions[-1] == told[(15 * 6) % len(prompts)]


def test_four_bits_a_number_are_half_of_eight(world) -> None:
    lm, prompts, _ = world
    ids = [asking.ids_of(lm, p) for p in prompts]
    each = {name: ways.MAKERS[name](2.0, ways.Known()).fit(lm, ids, seed=0) for name in ("pca_int8", "pca_int4")}
    bits = {name: way.bits(way.compress(lm, ids[0])) / len(ids[0]) for name, way in each.items()}
    assert bits == {"pca_int8": 16 * 8 + 16, "pca_int4": 16 * 4 + 16}


def test_trained_compressors_stand_beside_the_others_and_decide_nothing(root) -> None:
    files = [ran(root, "C1", "ratio=4").path / reconstruction.ADAPTER, ran(root, "C4").path / sequences.COMPRESSOR]
    before = [file.read_bytes() for file in files]
    run = ran(root, "C3", "ratios=[2.0]", "compressors=[truncation]", f"trained=[{files[0]},{files[1]}]")
    points = [(row["compressor"], row["ratio"]) for row in run.read_json("frontier.json")]
    assert points == [("truncation", 2), ("trained_adapter", 4), ("trained_memory_cache", 4)]
    metrics = run.read_json(RunDir.METRICS)
    assert {"ratio_keeping_80_trained_adapter", "ratio_keeping_80_trained_memory_cache"} <= set(metrics)
    assert metrics["ratio_keeping_80"] == metrics["ratio_keeping_80_truncation"]
    assert metrics["ratio_honoured"]["value"] == 1
    assert [file.read_bytes() for file in files] == before


def test_two_of_one_kind_and_ratio_stand_side_by_side_and_judge_no_other(root, tmp_path, monkeypatch, world) -> None:
    """As C1's adapter and C2's do; the second feeds every row, which is no way of the list's fault."""
    lm, prompts, _ = world
    files = [tmp_path / f"{name}.safetensors" for name in ("one", "other", "other_ratio")]
    for file, ratio in zip(files, (2.0, 2.0, 4.0), strict=True):
        Pca(ratio, wire="float16").fit(lm, [asking.ids_of(lm, p) for p in prompts], seed=0).save(file)
    names = ["trained_pca", "trained_pca_2", "trained_pca"]
    assert sorted(ways.load_trained(list(map(str, files)))) == sorted(zip(names, (2, 2, 4), strict=True))
    monkeypatch.setattr(Pca, "inject", lambda self, lm, sent: Injected(lm.table_VD[:3]))
    words = f"trained=[{files[0]},{files[1]}]"
    run = ran(root, "C3", "ratios=[2.0]", "compressors=[truncation]", words)
    points = {row["compressor"]: row["ratio_honoured"]["value"] for row in run.read_json("frontier.json")}
    assert points == {"truncation": 1, "trained_pca": 0, "trained_pca_2": 0}
    assert controls(run)["ratio_honoured"] is Outcome.PASS


def test_a_fault_of_the_machine_is_not_taken_for_a_file_of_another_model(world, monkeypatch) -> None:
    lm, prompts, _ = world
    pca = Pca(2.0).fit(lm, [asking.ids_of(lm, p) for p in prompts], seed=0)

    def broken(*given):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Pca, "compress", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        ways.check_ways(lm, ["truncation"], {("trained_pca", 2.0): pca}, ways.known_of(lm, prompts))


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (["missing"], "missing.safetensors holds no compressor"),
        (["pca", "pca"], "pca.safetensors is named twice; name it once"),
        (["empty"], "empty context, which has no ratio"),
        (["wide"], "trained_pca at ratio 4 was made for another model than tiny"),
        (["narrow"], "trained_memory_tokens at ratio 4 was made for another model than tiny"),
        (["ends"], "trained_memory_cache at ratio 4 was made for another model than tiny"),
        (["behind"], r"made behind a prefix of the ids \[7, 7\], and contexts here stand behind \["),
        (["deep"], "trained_mean_pooled at ratio 4 was made for another model than tiny"),
    ],
)
def test_files_that_cannot_be_asked_are_refused_in_one_line(files, line, root, tmp_path, world) -> None:
    lm, prompts, _ = world
    ids = [asking.ids_of(lm, p) for p in prompts]
    pca = Pca(2.0).fit(lm, ids, seed=0)
    table_VD = torch.cat((lm.table_VD, lm.table_VD), 1)
    twice = SimpleNamespace(table_VD=table_VD, device=lm.device, vocab_size=lm.vocab_size, dimension=2 * lm.dimension)
    wide = Pca(4.0).fit(cast(LanguageModel, twice), ids, seed=0)
    deep = MeanPooled(4.0, layer=3)  # of a model of three layers, and rows as wide
    deep = replace(deep, encoder=PooledEncoder(lm.dimension, layer=3, ratio=4.0, rank=0, sizes={}))
    others = {name: (i, o + 1) for name, (i, o) in linear_sizes(lm.model).items()}
    ends = replace(MemoryCache(4.0, own=True), encoder=CacheEncoder(None, {**others}, ratio=4.0, rank=16, prefix=()))
    narrow = replace(
        MemoryTokens(4.0),
        encoder=MemoryEncoder(
            lm.dimension,
            others,
            ratio=4.0,
            rank=16,
            layout="interleaved",
            skip=True,
            depth=0,
        ),
    )
    made = {"pca": pca, "deep": deep, "narrow": narrow, "empty": EmptyContext(), "wide": wide, "ends": ends}
    made["behind"] = KvPruning(4.0, prefix=(7, 7))
    for name, each in made.items():
        each.save(tmp_path / f"{name}.safetensors")
    named = ",".join(str(tmp_path / f"{name}.safetensors") for name in files)
    before = set(root.rglob("*"))
    with pytest.raises(ValueError, match=line) as caught:
        ran(root, "C3", "ratios=[2.0]", "compressors=[truncation]", f"trained=[{named}]")
    assert "\n" not in str(caught.value)
    assert set(root.rglob("*")) == before


@pytest.mark.parametrize("kind", [MeanPooled, MemoryTokens])
def test_a_trained_encoder_goes_where_the_model_is(kind, world, monkeypatch) -> None:
    """A file is read on the CPU, wherever the model is: the encoder is moved there before it reads."""
    lm, prompts, _ = world
    encoder = {
        MeanPooled: PooledEncoder(lm.dimension, layer=2, ratio=4.0, rank=0, sizes={}),
        MemoryTokens: MemoryEncoder(
            lm.dimension, dict(linear_sizes(lm.model)), ratio=4.0, rank=16, layout="interleaved", skip=True, depth=0
        ),
    }[kind]
    made = replace(MeanPooled(4.0, layer=2) if kind is MeanPooled else MemoryTokens(4.0), encoder=encoder)
    moved = []
    to = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *where: moved.append((self, *where)) or to(self, *where))
    made.compress(lm, asking.context_of(lm, prompts[0]))
    assert (encoder, lm.device) in moved
