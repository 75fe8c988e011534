"""A codec of a text file of groups: it rewords where its decoder was trained to, and its weights say whether it was.

The file says everything in two ways, word for word: what a codec has learned of it can be told by its words.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from inscape.checkpoint import weights_of
from inscape.codec import FewParaphrases, VisualCodec
from inscape.core.rundir import RunDir
from inscape.core.study import SMOKE, Context
from inscape.data.tokenizer import COPY, PARAPHRASE
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.studies.visual import paraphrasing
from inscape.studies.visual.codec_training import Training, train_codec, with_fresh_parts
from inscape.studies.visual.coding import Reading, say
from inscape.studies.visual.model import TrainedCodec, encode, load_codec, save_codec
from inscape.studies.visual.objective import Objective
from inscape.studies.visual.paraphrasing import Candidate
from inscape.studies.visual.sources import DataConfig, Mixture, Source, open_source
from inscape.train import FitConfig

ONE = (["dog", "cat", "horse", "cow"], ["runs", "sleeps", "eats", "sings"], ["slowly", "loudly", "alone", "outside"])
OTHERS = (
    ["hound", "kitten", "pony", "calf"],
    ["races", "rests", "dines", "hums"],
    ["calmly", "noisily", "apart", "around"],
)
AGES = ["young", "old", "big", "small", "thin", "strong", "sad", "happy"]
SAME = dict(zip([w for words in ONE for w in words], [w for words in OTHERS for w in words], strict=True))
SIZES = LatentCodecConfig(
    d=32, heads=2, ffn=64, dropout=0, patch=8, reader_layers=1, decoder_layers=1, readout_layers=0
)
OBJECTIVE = Objective(image=0, contrast=0.1, noise=0, from_z=0, z_alone=0, z_beside=0)
STEPS = FitConfig(
    steps=160,
    lr=5e-3,
    optimizer="muon",
    warmup_steps=10,
    eval_every=0,
    checkpoint_every=0,
    ema_decay=0.9,
    precision="float32",
)


def pairs() -> list[tuple[str, str]]:
    """A sentence and the same in other words."""
    rows = product(AGES, *ONE)
    return [(f"the {age} {' '.join(words)}", f"one {age} {' '.join(SAME[w] for w in words)}") for age, *words in rows]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    rows = [pairs()[i] for i in np.random.default_rng(0).permutation(len(pairs()))]
    (folder / "groups.tsv").write_text("\n".join("\t".join(row) for row in rows))
    (folder / "plain.txt").write_text("\n".join(first for first, _ in rows))
    return folder


def source_of(file: Path) -> Source:
    return open_source(DataConfig(text=str(file), vocab=400))


def fresh(source: Source) -> TrainedCodec:
    torch.manual_seed(0)
    vocab = source.tokenizer.vocab_size
    encoder = LatentEncoderConfig(
        vocab=vocab, d=32, layers=1, heads=2, ffn=64, dropout=0, head="light", coarse=4, H=16, W=16, C=4
    )
    return TrainedCodec(LatentCodec(encoder, SIZES).eval(), source.tokenizer)


def trained(
    folder: Path, codec: TrainedCodec, source: Source, paraphrases: float, steps: int = 2, *, target=1.0, frozen=()
) -> TrainedCodec:
    folder.mkdir(exist_ok=True)
    context = Context(None, 0, "cpu", SMOKE, RunDir(folder), {})
    fit = replace(STEPS, steps=steps, warmup_steps=min(steps - 1, STEPS.warmup_steps))
    objective, mixture = replace(OBJECTIVE, target=target), Mixture(paraphrases=paraphrases)
    training = Training(batch=16, mixture=mixture, objective=objective, fit=fit)
    return train_codec(context, codec, source, training, looks=False, frozen=frozen)[0]


@pytest.fixture(scope="module")
def groups(files: Path) -> Source:
    return source_of(files / "groups.tsv")


@pytest.fixture(scope="module")
def learned(groups: Source, tmp_path_factory: pytest.TempPathFactory) -> TrainedCodec:
    return trained(tmp_path_factory.mktemp("run"), fresh(groups), groups, 1.0, STEPS.steps)


# --- what is to be said ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_target_is_the_other_wording_of_the_paraphrase_beside_it(groups: Source, share: float):
    drawn = groups.tuples_at(0, 3, 0, 1, 16, Mixture(paraphrases=share))
    assert len(drawn.target_BT) == len(drawn.start_B) == 16 * share
    assert set(drawn.start_B) <= {PARAPHRASE}
    assert drawn.target_BT.shape[1] == drawn.paraphrase_BT.shape[1]
    together = {frozenset(pair) for pair in pairs()}
    said, seen = (
        groups.tokenizer.decode(rows) for rows in (drawn.target_BT, drawn.paraphrase_BT[: len(drawn.target_BT)])
    )
    assert all(frozenset(pair) in together and len(set(pair)) == 2 for pair in zip(said, seen, strict=True))


def test_single_sentences_have_no_other_wording(files: Path):
    drawn = source_of(files / "plain.txt").tuples_at(0, 3, 0, 1, 16, Mixture(paraphrases=1.0))
    assert (len(drawn.target_BT), len(drawn.start_B)) == (0, 0)


# --- whether it was learned -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "paraphrases", "target", "frozen", "rewords"),
    [
        ("groups.tsv", 0.3, 1.0, (), True),
        ("groups.tsv", 0.0, 1.0, (), False),
        ("groups.tsv", 0.3, 0.0, (), False),
        ("groups.tsv", 0.3, 1.0, ("decoder",), False),
        ("plain.txt", 0.3, 1.0, (), False),
    ],
)
def test_weights_know_whether_their_decoder_was_trained_to_reword(
    files: Path, tmp_path: Path, file: str, paraphrases: float, target: float, frozen: tuple[str, ...], rewords: bool
):
    source = source_of(files / file)
    codec = trained(tmp_path, fresh(source), source, paraphrases, target=target, frozen=frozen)
    save_codec(codec, tmp_path / "codec.safetensors")
    assert codec.rewords == load_codec(tmp_path / "codec.safetensors").rewords == rewords
    if rewords:
        later = trained(tmp_path / "later", codec, source, 0.0)
        assert later.rewords, "a training without does not take it away"
        assert not with_fresh_parts(later, ("encoder",), 0).rewords, "a fresh decoder has learned nothing"
    else:
        with pytest.raises(ValueError, match=r"not to reword; paraphrase needs .* groups of paraphrases \(\.tsv\)"):
            VisualCodec(codec).paraphrase("the old dog eats slowly")


def test_weights_that_do_not_say_were_not(tmp_path: Path, groups: Source):
    save_codec(fresh(groups)._replace(rewords=True), tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata.pop("rewords") == "true"
    save_file(weights_of(fresh(groups).model), tmp_path / "old.safetensors", metadata)
    assert [load_codec(tmp_path / f"{age}.safetensors").rewords for age in ("new", "old")] == [True, False]


# --- paraphrases ----------------------------------------------------------------------------------------------------


def test_unseen_sentences_are_read_back_by_one_token_and_reworded_by_the_other(learned: TrainedCodec, groups: Source):
    held_out = groups.held_out_pairs(100)
    latent_NCHW = encode(learned.to_latent, [first for first, _ in held_out])
    copies, others = (say(learned, latent_NCHW, Reading(start=start)) for start in (COPY, PARAPHRASE))
    assert sum(a == b for a, (b, _) in zip(copies, held_out, strict=True)) > len(held_out) / 2
    assert sum(a == b for a, (_, b) in zip(others, held_out, strict=True)) > len(held_out) / 2


def test_what_is_given_is_another_sentence_that_means_the_same_to_the_codec(learned: TrainedCodec, groups: Source):
    codec, right = VisualCodec(learned), 0
    held_out = groups.held_out_pairs(8)
    for sentence, other in held_out:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewParaphrases)
            found = codec.paraphrase(sentence, 2)
        assert sentence not in found
        assert all(codec.similarity(sentence, text) >= 0.9 for text in found)
        right += other in found
    assert right > len(held_out) / 2


def test_the_sentence_itself_in_other_clothes_is_no_paraphrase(learned: TrainedCodec, monkeypatch: pytest.MonkeyPatch):
    sentence, other = "the old dog eats slowly", "one old hound dines calmly"
    said = {sentence: 1.0, "The old dog eats slowly.": 0.99, other: 0.95, "one old dog": 0.89}

    def drawn(codec, sentences, k, **options):
        return [list(map(Candidate, said, said.values())) for _ in sentences]

    monkeypatch.setattr(paraphrasing, "candidates", drawn)
    with pytest.warns(FewParaphrases, match="1 of the 2 paraphrases"):
        assert VisualCodec(learned).paraphrase(sentence, 2) == [other], "and what is less than 0.9 alike is none either"


def test_where_the_parser_can_read_the_sentence_its_verdict_is_final(
    learned: TrainedCodec, monkeypatch: pytest.MonkeyPatch
):
    sentence, same = "a red ball is on the blue block", "the blue block supports a red ball"
    said = ["a blue ball is on the red block", same]

    def drawn(codec, sentences, k, **options):
        return [[Candidate(text, 0.99) for text in said] for _ in sentences]

    monkeypatch.setattr(paraphrasing, "candidates", drawn)
    with pytest.warns(FewParaphrases):
        assert VisualCodec(learned).paraphrase(sentence, 2) == [same]
