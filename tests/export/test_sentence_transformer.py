"""The embedding through sentence-transformers is the codec's own, and its evaluators, losses and files work with it."""

import copy
import json
import socket
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inscape import VisualCodec
from inscape.codec import OutOfGrammar
from inscape.data.scenes import render, sample
from inscape.data.scenes.evaluation import evaluation_pack

sentence_transformers = pytest.importorskip("sentence_transformers")

from sentence_transformers.sentence_transformer import evaluation, losses  # noqa: E402

from inscape.export.sentence_transformer import VisualEmbedding, load, sentence_transformer  # noqa: E402

SENTENCES = [render(sample(i, facts=1 + i % 3), np.random.default_rng(i)) for i in range(40)]


@pytest.fixture(scope="module")
def folder(exported) -> Path:
    out, said = exported("sbert")
    assert said.startswith(f"{out}: for SentenceTransformer(folder, trust_remote_code=True), 256 numbers a sentence")
    return out


def opened(folder: Path) -> Any:
    return sentence_transformers.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """Loaded as its users load it, with no network to be had."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
        return opened(folder)


def close(found: np.ndarray, codec: VisualCodec, sentences: list[str]) -> bool:
    return bool(np.abs(found - codec.embed(sentences).numpy()).max() < 1e-5)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_embeddings_are_those_of_the_codec_in_any_batch(model: Any, shipped: VisualCodec, batch: int):
    z_BZ = model.encode(SENTENCES, batch_size=batch)
    assert z_BZ.dtype == np.float32
    assert z_BZ.shape == (40, model.get_embedding_dimension())
    assert close(z_BZ, shipped, SENTENCES)


def test_what_the_parser_forgives_is_forgiven_without_a_warning(model: Any, shipped: VisualCodec):
    loose = ["A red ball is on the blue block.", "  a  red ball is on the blue block "]
    assert close(model.encode(loose), shipped, loose)
    assert np.allclose(*model.encode(loose), atol=1e-6)


def test_words_out_of_the_grammar_are_embedded_alike_and_warned_of(model: Any, shipped: VisualCodec):
    strange = ["a red dog is on the blue block", SENTENCES[0], "Ein roter Ball ☂"]
    with pytest.warns(OutOfGrammar, match="the quality of its latent is unknown, and that of 1 more"):
        z_BZ = model.encode(strange)
    with pytest.warns(OutOfGrammar):
        assert close(z_BZ, shipped, strange)


def test_long_text_is_cut_as_the_custom_is_and_no_text_is_refused(model: Any):
    long = " ".join(["red"] * 200)
    with pytest.warns(OutOfGrammar):
        assert np.allclose(*model.encode([long, f"{long} ball"]))
    for nothing in ("", "  ", 3, ("a", "b")):
        with pytest.raises(ValueError, match=r"cannot be embedded; give sentences that are not empty|modalit"):
            model.encode([nothing])


def test_a_prompt_stands_before_the_sentence(model: Any, shipped: VisualCodec):
    z_BZ = model.encode(["is on the blue block"], prompt="a red ball ")
    assert close(z_BZ, shipped, ["a red ball is on the blue block"])


def test_codecs_of_other_text_do_not_warn(tiny):
    codec = tiny()._replace(tokenizer=codec_tokenizer())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sentence_transformer(codec, device="cpu").encode(["the cat sat on the mat"])


def codec_tokenizer() -> Any:
    from inscape.data.tokenizer import Tokenizer

    return Tokenizer.train(["the cat sat on the mat", "the cat sat on the dog"], 400)


def test_its_own_retrieval_and_triplet_evaluators_find_paraphrases_among_counterfactuals(model: Any):
    items = [item for item in evaluation_pack().items if item.split == "heldout" and item.facts < 3][::8]
    triplets = [(i.sentence, i.paraphrase, other) for i in items for other in i.counterfactuals.values()]
    anchors, positives, negatives = map(list, zip(*triplets, strict=True))
    triplet = evaluation.TripletEvaluator(anchors, positives, negatives, write_csv=False)
    assert triplet(model)["cosine_accuracy"] >= 0.99
    paraphrases = {f"q{n}": item.paraphrase for n, item in enumerate(items)}
    corpus = {f"q{n}": item.sentence for n, item in enumerate(items)}
    corpus |= {f"{n} {edit}": other for n, i in enumerate(items) for edit, other in i.counterfactuals.items()}
    retrieval = evaluation.InformationRetrievalEvaluator(paraphrases, corpus, {n: {n} for n in corpus}, write_csv=False)
    assert retrieval(model)["cosine_accuracy@1"] >= 0.98


def test_an_untrained_codec_does_not_reach_that_figure(tiny):
    items = [item for item in evaluation_pack().items if item.split == "heldout" and item.facts == 2][::4]
    triplets = [(i.sentence, i.paraphrase, other) for i in items for other in i.counterfactuals.values()]
    evaluator = evaluation.TripletEvaluator(*map(list, zip(*triplets, strict=True)), write_csv=False)
    assert evaluator(sentence_transformer(tiny(), device="cpu"))["cosine_accuracy"] < 0.9


def test_what_is_saved_again_is_the_same_and_has_no_pickle(model: Any, shipped: VisualCodec, tmp_path: Path):
    model.save(str(tmp_path / "again"))
    assert close(opened(tmp_path / "again").encode(SENTENCES), shipped, SENTENCES)
    assert close(load(tmp_path / "again", "cpu").encode(SENTENCES), shipped, SENTENCES)
    found = VisualCodec.from_pretrained(tmp_path / "again")
    assert found.decode(found.encode(SENTENCES[:2])) == shipped.decode(shipped.encode(SENTENCES[:2]))
    assert {path.suffix for path in (tmp_path / "again").rglob("*") if path.is_file()} == {
        ".json",
        ".md",
        ".safetensors",
    }
    with pytest.raises(ValueError, match="safe_serialization=False would pickle"):
        model.save(str(tmp_path / "pickled"), safe_serialization=False)


def test_its_losses_train_the_encoder_and_what_was_trained_is_kept_whole(tiny, tmp_path: Path):
    model = sentence_transformer(tiny(), device="cpu")
    before = model.encode(SENTENCES[:4])
    loss = losses.MultipleNegativesRankingLoss(model)
    columns = [model.preprocess(part) for part in (SENTENCES[:4], SENTENCES[4:8])]
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    loss(columns, None).backward()
    first = model[0]
    assert isinstance(first, VisualEmbedding)
    assert first.model.encoder.text_encoder.embedding.weight.grad.abs().sum() > 0
    optimizer.step()
    model.save(str(tmp_path / "trained"), create_model_card=False)
    after = load(tmp_path / "trained", "cpu").encode(SENTENCES[:4])
    assert np.abs(after - before).max() > 1e-3
    assert np.abs(after - model.encode(SENTENCES[:4])).max() < 1e-6


def test_a_copy_stands_by_itself(model: Any):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert np.abs(twin.encode(SENTENCES[:2]) - model.encode(SENTENCES[:2])).max() > 1e-3


def test_the_module_is_imported_by_its_name_and_files_name_no_place(folder: Path):
    (entry,) = json.loads((folder / "modules.json").read_text())
    assert entry["type"] == f"{VisualEmbedding.__module__}.{VisualEmbedding.__name__}"
    assert entry["path"] == ""
    for file in folder.glob("*.json"):
        assert str(folder.parent) not in file.read_text()
    with pytest.raises(ValueError, match="trust_remote_code=True"):  # the day this is not asked for, say so in the card
        sentence_transformers.SentenceTransformer(str(folder), device="cpu")
