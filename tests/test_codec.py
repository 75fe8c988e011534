"""The codec in two lines: its weights on the disk, what it refuses, and what its sentences and latents promise."""

import copy
import io
import itertools
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from inscape import codec as codec_module
from inscape.codec import FewParaphrases, Latents, OutOfGrammar, VisualCodec, find_weights
from inscape.core.rundir import ASKED, FORMAT, RunDir
from inscape.data.scenes import parse, render, sample, wordings
from inscape.data.tokenizer import Tokenizer
from inscape.explore import codec_routes
from inscape.explore.answers import readings
from inscape.explore.server import LOOPBACK, serve
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.studies.visual import coding, paraphrasing
from inscape.studies.visual.model import CODEC_WEIGHTS, WEIGHTS, TextToLatent, TrainedCodec, save_codec, save_encoder
from inscape.studies.visual.paraphrasing import Candidate
from inscape.studies.visual.sources import DataConfig, open_source

SENTENCES = [
    "a red ball is on the blue block",
    "two green cones are next to a gray ring and a red ball is on the blue block",
    "the blue block supports a red ball",
]
SIZES = LatentCodecConfig(d=32, heads=2, ffn=32, patch=8, reader_layers=1, decoder_layers=1, readout_layers=0)


def tiny_encoder(vocab: int) -> LatentEncoderConfig:
    return LatentEncoderConfig(vocab=vocab, d=32, layers=1, heads=2, ffn=32, head="light", coarse=4)


def tiny_codec(tokenizer: Tokenizer) -> TrainedCodec:
    torch.manual_seed(0)
    return TrainedCodec(LatentCodec(tiny_encoder(tokenizer.vocab_size), SIZES).eval(), tokenizer)


@pytest.fixture(scope="module")
def tokenizer():
    return open_source(DataConfig()).tokenizer


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """A run of P1: its folder and its encoder."""
    torch.manual_seed(0)
    encoder = LatentEncoder(tiny_encoder(tokenizer.vocab_size)).eval()
    run = RunDir(tmp_path_factory.mktemp("run"))
    save_encoder(TextToLatent(encoder, tokenizer), run)
    return run.path, encoder


@pytest.fixture(scope="module")
def trained(tokenizer):
    return tiny_codec(tokenizer)


@pytest.fixture(scope="module")
def codec(trained):
    return VisualCodec(trained)


@pytest.fixture(scope="module")
def text_codec():
    """One of ordinary English, whose tokenizer has merged other words than the grammar's."""
    return VisualCodec(tiny_codec(Tokenizer.train(["the cat sat on the mat", "the cat sat on the dog"], 400)))


# --- weights -------------------------------------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_saved(saved, tokenizer):
    path, encoder = saved
    expected = encoder(torch.from_numpy(tokenizer.encode(SENTENCES))).detach()
    for weights in (path, path / WEIGHTS):
        found = VisualCodec.from_pretrained(weights).encode(SENTENCES)
        assert found.shape == (3, 6, 32, 32)
        torch.testing.assert_close(found.as_subclass(Tensor), expected, rtol=1e-5, atol=1e-5)


def test_a_codec_comes_back_whole_and_goes_before_the_encoder_beside_it(saved, trained, codec, tmp_path):
    shutil.copy(saved[0] / WEIGHTS, tmp_path / WEIGHTS)
    save_codec(trained, tmp_path / CODEC_WEIGHTS)
    for weights in (tmp_path, tmp_path / CODEC_WEIGHTS):
        found = VisualCodec.from_pretrained(weights)
        latents = found.encode(SENTENCES)
        assert torch.equal(latents, codec.encode(SENTENCES))
        assert found.decode(latents) == codec.decode(latents)


def test_weights_that_travel_as_halves_say_nearly_the_same(trained, codec, tmp_path):
    save_codec(trained, tmp_path / "half.safetensors", half=True)
    z = VisualCodec.from_pretrained(tmp_path / "half.safetensors").embed(SENTENCES)
    assert (z * codec.embed(SENTENCES)).sum(1).min() > 0.999


def test_foreign_and_damaged_weights_are_refused(saved, trained, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    save_codec(trained, tmp_path / "codec.safetensors")
    for name, path in {"encoder": saved[0] / WEIGHTS, "codec": tmp_path / "codec.safetensors"}.items():
        whole = path.read_bytes()
        (tmp_path / f"cut_{name}.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("no weights at all")
    for name in ("foreign", "cut_encoder", "cut_codec", "text", "missing"):
        with pytest.raises(ValueError, match=name):
            VisualCodec.from_pretrained(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("given", ["", 5, b"codec.safetensors", ["a"]])
def test_what_names_no_weights_is_said_back(given):
    with pytest.raises(ValueError, match=re.escape(f"weights={given!r}; allowed: a run or exported folder")):
        VisualCodec.from_pretrained(given)


@pytest.mark.parametrize("given", ["x" * 300, Path("x" * 300), f"{'x' * 300}/codec.safetensors"])
def test_a_name_that_no_disk_takes_is_one_line(given):
    with pytest.raises(ValueError, match=f"^{given} cannot be read: File name too long; give another path$"):
        VisualCodec.from_pretrained(given)


def test_weights_that_may_not_be_read_are_one_line(saved, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(ValueError, match=r"encoder\.safetensors cannot be read: Permission denied; give a file"):
        VisualCodec.from_pretrained(saved[0])


def test_a_folder_without_weights_is_told_what_would_do(tmp_path):
    with pytest.raises(ValueError, match=r"holds no codec.safetensors or encoder.safetensors or model.safetensors"):
        VisualCodec.from_pretrained(tmp_path)


def fake_run(phase: str, time: str, weights: Path, *, finished: bool = True) -> Path:
    run = RunDir(Path("runs/visual", phase, "quick", f"{time}-0-s0"))
    run.path.mkdir(parents=True)
    empty = {str: "", int: 0, dict: {}, list: []}
    run.write_json(RunDir.ENV, {"format": FORMAT} | {key: empty.get(kind) for key, kind in ASKED.items()})
    shutil.copy(weights, run.path)
    if finished:
        run.write_json(RunDir.VERDICT, {})
    return run.path


def test_which_weights_are_taken_when_none_are_named(saved, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = tmp_path / "shipped.safetensors"
    monkeypatch.setattr(codec_module, "SHIPPED", shipped)
    with pytest.raises(ValueError, match="there are no weights yet"):
        find_weights()
    save_codec(trained, tmp_path / CODEC_WEIGHTS)
    first = fake_run("P1", "20300101", saved[0] / WEIGHTS)
    assert find_weights() == first
    old = fake_run("P3", "20290101", tmp_path / CODEC_WEIGHTS)
    assert find_weights() == old, "a codec goes before an encoder, however new"
    new = fake_run("P3", "20290102", tmp_path / CODEC_WEIGHTS)
    fake_run("P3", "20290103", tmp_path / CODEC_WEIGHTS, finished=False)
    fake_run("P5", "20290104", saved[0] / WEIGHTS)  # finished without a codec, as when a phase is skipped
    assert find_weights() == new
    shutil.move(tmp_path / CODEC_WEIGHTS, shipped)
    assert find_weights() == shipped
    assert VisualCodec.from_pretrained().trained.model.config == SIZES


def test_an_encoder_alone_encodes_and_says_what_else_to_give(saved):
    codec = VisualCodec.from_pretrained(saved[0])
    latents = codec.encode(SENTENCES)
    for refused in (
        lambda: codec.decode(latents),
        lambda: codec.embed(latents),
        lambda: codec.embed(SENTENCES),
        lambda: codec.similarity(*SENTENCES[:2]),
        lambda: codec.paraphrase(SENTENCES[0]),
        lambda: codec.interpolate(*SENTENCES[:2]),
    ):
        with pytest.raises(ValueError, match=r"encoder of P1.*give a run of P2 or later"):
            refused()


def test_a_decoder_that_was_never_trained_is_not_asked_for_sentences(trained, codec, tmp_path):
    save_codec(trained._replace(reads_back=False), tmp_path / "codec.safetensors")
    unread = VisualCodec.from_pretrained(tmp_path / "codec.safetensors")
    latents = unread.encode(SENTENCES)
    assert torch.equal(latents, codec.encode(SENTENCES))
    assert torch.equal(unread.embed(SENTENCES), codec.embed(SENTENCES))
    for refused in (
        lambda: unread.decode(latents),
        lambda: unread.paraphrase(SENTENCES[0]),
        lambda: unread.paraphrase_each(SENTENCES),
        lambda: unread.interpolate(*SENTENCES[:2]),
        lambda: readings(unread, latents),
        lambda: serve(0, LOOPBACK, tmp_path / "codec.safetensors", tmp_path),
    ):
        with pytest.raises(ValueError, match=r"decoder of these weights is not trained yet.*run of P4 or later"):
            refused()


# --- sentences to latents ------------------------------------------------------------------------------------------


def test_latents_are_tensors_that_know_their_channels(codec):
    latents = codec.encode(SENTENCES)
    assert isinstance(latents[:2], Latents)
    assert isinstance(2 * latents - latents.mean(0), Latents)
    last = latents.to_hwc()
    assert type(last) is Tensor
    assert last.shape == (3, 32, 32, 6)
    assert torch.equal(last[1, 4, 5], latents[1, :, 4, 5])
    assert latents[0].to_hwc().shape == (32, 32, 6)
    with pytest.raises(ValueError, match=r"allowed: \(..., channels, height, width\)"):
        latents[0, 0].to_hwc()
    gradient = torch.autograd.grad(latents.requires_grad_().square().sum(), latents)[0]
    torch.testing.assert_close(gradient, 2 * latents.detach())


def test_latents_are_copied_and_kept_as_tensors_are(codec):
    latents = codec.encode(SENTENCES)
    for one in (latents, latents[0], latents.clone().requires_grad_()):
        for made in (copy.deepcopy(one), copy.copy(one)):
            assert isinstance(made, Latents)
            assert torch.equal(made, one)
            assert (made.requires_grad, made.is_leaf) == (one.requires_grad, True)
    twin = copy.deepcopy(latents)
    twin[0] = 0
    assert not torch.equal(twin, latents), "a memory of its own"
    both = copy.deepcopy([latents, latents])
    assert both[0] is both[1]
    for kept in (latents, latents[0], {"V": latents}):
        file = io.BytesIO()
        torch.save(kept, file)
        file.seek(0)
        found = torch.load(file, weights_only=True)
        found, wanted = (found["V"], kept["V"]) if isinstance(kept, dict) else (found, kept)
        assert type(found) is Tensor
        assert torch.equal(found, wanted)


@settings(max_examples=5)
@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=9))
def test_company_and_order_change_nothing(codec, seeds):
    sentences = [render(sample(seed, facts=1 + seed % 3), np.random.default_rng(seed)) for seed in seeds]
    together, said = codec.encode(sentences), codec.decode(codec.encode(sentences))
    for i in (0, len(seeds) - 1):
        alone = codec.encode([sentences[i]])
        torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-4)
        assert codec.decode(alone) == [said[i]]


@pytest.mark.parametrize(
    ("sentences", "said"),
    [
        ("a red ball", "wants a list"),
        ([], "no sentence"),
        ([SENTENCES[0], "  "], "sentence 2 is empty"),
        ([SENTENCES[0], 3], "sentence 2 is a int; give text"),
        (["a red ball and " * 40], "sentence 1: 162 tokens with start and end, allowed 64; shorten or split it$"),
        ([*SENTENCES, "a red ball and " * 40], "sentence 4: 162 tokens"),
        ([SENTENCES[0], "a \udcff"], "sentence 2 holds a lone surrogate at character 3"),
        (None, "a list of sentences is wanted; given: None"),
        (5, "a list of sentences is wanted; given: 5"),
        (b"a red ball", "wants a list"),
        (torch.tensor(1.0), r"a list of sentences is wanted; given: tensor\(1\.\)"),
        (np.array(1.0), r"a list of sentences is wanted; given: 1\.0"),
    ],
)
def test_nonsense_is_refused(saved, sentences, said):
    with pytest.raises(ValueError, match=said):
        VisualCodec.from_pretrained(saved[0]).encode(sentences)


def test_a_capital_letter_and_a_stop_are_forgiven(codec):
    written = "  A red ball  is on the blue block. "
    assert torch.equal(codec.encode([written], strict=True), codec.encode(SENTENCES[:1]))


STRANGE = [
    ("a red zebra is on the blue block", "'zebra'"),
    ("a red bal is on the blue block", "'bal' .*did you mean 'ball'"),
    ("Quite a red ball.", "'quite'"),
    ("a red ball is on", "where the text ends"),
    ("a ball red is on the blue block", "word 2 'ball'"),
]


def test_a_very_long_word_is_shown_by_its_beginning(codec):
    for sentence in ("z" * 100_000, f"a red {'ball' * 30_000} is on", f"a red ball {'is' * 30_000}"):
        with pytest.raises(ValueError, match="…") as caught:
            codec.encode([sentence], strict=True)
        assert len(str(caught.value)) < 200
        with pytest.raises(ValueError, match="…") as caught:
            parse(sentence)
        assert len(str(caught.value)) < 600, "with what could stand there"


@pytest.mark.parametrize(("sentence", "said"), STRANGE)
def test_what_is_not_of_the_grammar_is_encoded_with_a_warning_or_refused(codec, sentence, said):
    with pytest.warns(
        OutOfGrammar, match=rf"sentence 2: .*{said}.*quality of its latent is unknown, and that of 1 more"
    ) as warned:
        latents = codec.encode([SENTENCES[0], sentence, "so is this"])
    assert latents.isfinite().all()
    assert len(warned) == 1
    with pytest.raises(ValueError, match=f"sentence 2: .*{said}"):
        codec.encode([SENTENCES[0], sentence], strict=True)


def test_a_codec_of_other_text_knows_no_grammar(codec, text_codec):
    assert codec.knows_grammar
    assert not text_codec.knows_grammar
    latents = text_codec.encode(["The  cat, sat!"], strict=True)  # and no warning, which would be an error here
    assert torch.equal(latents, text_codec.encode(["The cat, sat!"]))
    with pytest.raises(ValueError, match="trained on the scene grammar"):
        text_codec.decode(latents, constrained=True)


# --- latents to sentences and meanings -----------------------------------------------------------------------------


def test_what_may_only_speak_the_grammar_speaks_it(codec):
    said = codec.decode(torch.randn(8, 6, 32, 32, generator=torch.Generator().manual_seed(0)), constrained=True)
    assert len(said) == 8
    for sentence in said:
        parse(sentence)


def test_what_may_only_speak_a_users_grammar_speaks_it(codec, text_codec):
    pytest.importorskip("llguidance")
    lark = 'start: ("the" | "a") " " noun\nnoun: "cat" | "mat"'
    for of in (codec, text_codec):  # to the grammar's tokenizer some of these words are only letters
        assert set(of.decode(GOOD, grammar=lark)) <= {"the cat", "the mat", "a cat", "a mat"}
    with pytest.raises(ValueError, match="give one of the two"):
        codec.decode(GOOD, constrained=True, grammar=lark)
    with pytest.raises(ValueError, match="a grammar is its rules as text, in Lark syntax; given: 5"):
        codec.decode(GOOD, grammar=5)
    with pytest.raises(ValueError, match="the grammar is malformed: line 1"):
        codec.decode(GOOD, grammar="start: (")


def test_kinds_of_floats_are_read_alike(codec):
    latents = codec.encode(SENTENCES)
    for kind in (torch.float64, torch.float32):
        assert codec.decode(latents.to(kind).requires_grad_()) == codec.decode(latents)
    assert len(codec.decode(latents.half())) == 3


GOOD = torch.zeros(2, 6, 32, 32)


@pytest.mark.parametrize(
    ("latents", "said"),
    [
        (GOOD[0], r"shape \(6, 32, 32\); allowed: floats of shape \(B, 6, 32, 32\).*latent\[None\]"),
        (GOOD.movedim(1, 3), r"shape \(2, 32, 32, 6\)"),
        (GOOD[:0], "B at least 1"),
        (GOOD[:, :5], r"shape \(2, 5, 32, 32\)"),
        (torch.zeros(()), r"shape \(\)"),
        (GOOD.long(), "latents are int64; allowed: floats"),
        (GOOD.to(torch.complex64), "latents are complex64"),
        (GOOD.numpy(), "latents are a ndarray"),
        (GOOD.to_sparse(), r"latents are sparse; give latents.to_dense\(\); allowed: floats"),
        (GOOD.to("meta"), "latents are on the meta device, which holds no values; allowed: floats"),
        (GOOD.double() + 1e300, r"latent 1 holds values up to 1e\+300; allowed: up to 10000"),
        (torch.cat((GOOD, GOOD * torch.nan)), "latent 3 holds NaN"),
        (torch.cat((GOOD, GOOD - torch.inf)), "latent 3 holds NaN or infinite"),
        (GOOD + 1e30, r"latent 1 holds values up to 1e\+30; allowed: up to 10000"),
    ],
)
def test_what_is_no_latent_is_refused(codec, latents, said):
    with pytest.raises(ValueError, match=said):
        codec.decode(latents)
    if isinstance(latents, Tensor):
        with pytest.raises(ValueError, match=said):
            codec.embed(latents)


def test_a_cosine_of_what_is_no_number_is_none(codec, monkeypatch):
    for length, cosine in ((torch.nan, math.nan), (1.1, 1.0), (0.5, 0.25)):
        z_BZ = torch.tensor([[0.0, length]] * 2)
        monkeypatch.setattr(VisualCodec, "embed", lambda *_, z_BZ=z_BZ: z_BZ)
        read = [codec_routes.Read({}, {}, z_Z) for z_Z in z_BZ]
        found = [codec.similarity(*SENTENCES[:2]), codec_routes._cosine(*read)]
        assert found == pytest.approx([cosine] * 2, nan_ok=True)


def test_embeddings_are_of_the_latents_and_of_unit_norm(codec):
    z = codec.embed(SENTENCES)
    assert z.shape == (3, 256)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(codec.embed(codec.encode(SENTENCES)), z)
    assert codec.similarity(SENTENCES[0], SENTENCES[1]) == pytest.approx(float(z[0] @ z[1]), abs=1e-5)
    assert codec.similarity(SENTENCES[1], SENTENCES[0]) < codec.similarity(SENTENCES[0], SENTENCES[0])
    assert codec.similarity(SENTENCES[0], SENTENCES[0]) == pytest.approx(1)


def test_many_sentences_are_embedded_without_keeping_their_latents(codec, monkeypatch):
    sentences = [*SENTENCES, *(render(sample(seed), np.random.default_rng(seed)) for seed in range(400))]
    held: list[int] = []
    real = coding.encode

    def watched(model, texts, batch=64):
        held.append(len(texts))
        return real(model, texts, batch)

    for module in (coding, codec_module):
        monkeypatch.setattr(module, "encode", watched)
    z = codec.embed(sentences)
    assert sum(held) == len(sentences)
    assert max(held) <= coding.BATCH
    torch.testing.assert_close(z, codec.embed(codec.encode(sentences)), rtol=0, atol=1e-5)
    with pytest.warns(OutOfGrammar, match="sentence 2: "):
        codec.embed([SENTENCE, "a red zebra"])
    with pytest.raises(ValueError, match="sentence 2: 82 tokens"):
        codec.embed([SENTENCE, " and ".join([SENTENCE] * 9)])


def test_a_line_between_two_sentences_starts_and_ends_at_them(codec):
    a, b = SENTENCES[:2]
    said = codec.interpolate(a, b, steps=4)
    assert len(said) == 4
    assert said[:1] + said[-1:] == codec.decode(codec.encode([a, b]))
    latents = codec.encode([a, b])
    assert said[1] == codec.decode((2 * latents[:1] + latents[1:]) / 3)[0]
    for steps in (1, 1001, 2.5, True):
        with pytest.raises(ValueError, match=r"steps=.* allowed: a whole number from 2 to 1000"):
            codec.interpolate(a, b, steps)


# --- paraphrases, in a planted world ---------------------------------------------------------------------------------


def plant(monkeypatch, world) -> list[int]:
    """Let `world(round)` be what is sampled; returns the list that will hold how many were asked for, by round."""
    asked: list[int] = []

    def candidates(codec, sentences, k, *, seed, constraint):
        asked.append(k)
        rows = itertools.islice(itertools.cycle(world(len(asked) - 1)), k)
        return [list(rows) for _ in sentences]

    monkeypatch.setattr(paraphrasing, "candidates", candidates)
    return asked


SENTENCE = SENTENCES[0]
OTHERS = [text for text in itertools.islice(wordings(parse(SENTENCE)), 40) if text != SENTENCE]
WRONG = Candidate("a blue ball is on the red block", 1.0)


def test_paraphrases_are_others_of_the_same_meaning_best_first(codec, monkeypatch):
    good = [Candidate(text, 0.1 * i) for i, text in enumerate(OTHERS[:7])]
    asked = plant(monkeypatch, lambda _: [WRONG, Candidate(SENTENCE, 1.0), *good, *good, Candidate("no scene", 1.0)])
    assert codec.paraphrase(SENTENCE, 5) == OTHERS[6:1:-1]
    assert asked == [20]
    assert codec.paraphrase("A red ball is on the blue block.", 7) == OTHERS[6::-1]


def test_more_is_drawn_until_there_are_enough(codec, monkeypatch):
    asked = plant(monkeypatch, lambda i: [Candidate(OTHERS[i], 0.5 + 0.01 * i), WRONG])
    assert codec.paraphrase(SENTENCE, 3) == OTHERS[2::-1]
    assert asked == [12, 24, 48]


@pytest.mark.parametrize("there_are", [0, 2])
def test_where_there_are_too_few_it_says_how_many(codec, monkeypatch, there_are):
    asked = plant(monkeypatch, lambda _: [WRONG, *(Candidate(text, 0.9) for text in OTHERS[:there_are])])
    with pytest.warns(FewParaphrases, match=f"{there_are} of the 100 paraphrases asked for were found in 1200 samples"):
        assert sorted(codec.paraphrase(SENTENCE, 100)) == sorted(OTHERS[:there_are])
    assert asked == [400, 800], "there is an end to it"


def test_a_decoder_that_never_learned_to_reword_is_not_asked_to(text_codec):
    """Its token for paraphrases is as it was drawn, and what it said would be called the same meaning."""
    for ask in (lambda: text_codec.paraphrase("the mat sat"), lambda: text_codec.paraphrase_each(["the mat sat"])):
        with pytest.raises(
            ValueError, match=r"trained on a text file, .* not to reword; paraphrase needs weights that"
        ):
            ask()


def test_paraphrases_that_are_really_sampled(codec):
    with pytest.warns(FewParaphrases):
        assert codec.paraphrase(SENTENCE, 1) == [], "weights of chance never say the same thing twice"
    with pytest.warns(OutOfGrammar, match="'zebra'"):  # and so no meaning but the cosine, which is high by chance
        (other,) = codec.paraphrase("a zebra", 1)
    parse(other)


def test_the_seed_decides_what_is_sampled(codec, monkeypatch):
    drawn: list[tuple[int, tuple[str, ...]]] = []
    real = paraphrasing.candidates

    def watched(*words, seed, **options):
        (row,) = real(*words, seed=seed, **options)
        drawn.append((seed, tuple(candidate.text for candidate in row)))
        return [row]

    monkeypatch.setattr(paraphrasing, "candidates", watched)
    monkeypatch.setattr(codec_module, "DRAWS", (2, 2))
    for seed in (0, 1, 0):
        with pytest.warns(FewParaphrases):
            codec.paraphrase(SENTENCE, 2, seed)
    assert drawn[:2] == drawn[4:]
    assert len({seed for seed, _ in drawn}) == len(set(drawn)) == 4


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (101, 0), (2.0, 0), (True, 0), ("5", 0), (5, -1), (5, 2**60)])
def test_numbers_out_of_range_are_refused(codec, n, seed):
    with pytest.raises(ValueError, match=r"(n|seed)=.* is out of range; allowed: a whole number from"):
        codec.paraphrase(SENTENCE, n, seed)


def test_numpy_sees_latents_as_it_sees_tensors(codec):
    assert np.asarray(codec.encode(SENTENCES)).shape == (3, 6, 32, 32)


def test_the_shipped_weights_are_small_and_read_back_what_they_were_given():
    shipped = codec_module.SHIPPED
    assert shipped.stat().st_size <= 12_000_000
    assert "P5" in shipped.with_suffix(".md").read_text(), "with their card"
    texts = [
        "a red ball is on the blue block",
        "a blue ball is on the red block",
        "two green cones are inside a white ring",
    ]
    codec = VisualCodec.from_pretrained()
    assert codec.decode(codec.encode(texts)) == texts
    swapped = codec.encode(texts)[[1, 0, 2]]
    assert codec.decode(swapped) == [texts[1], texts[0], texts[2]], "from V alone"
