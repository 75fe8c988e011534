"""The codec's verbs: each does what it says, and every door answers nonsense in one line and leaves nothing behind."""

import io
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_codec import OTHERS, SENTENCES, plant, tiny_codec, tiny_encoder

from inscape import codec as codec_module
from inscape import codec_files
from inscape.cli import main
from inscape.codec import VisualCodec
from inscape.core.rundir import RunDir
from inscape.nn.latent_encoder import LatentEncoder
from inscape.studies.visual.latent_prior import PRIOR_WEIGHTS
from inscape.studies.visual.model import (
    CODEC_WEIGHTS,
    MODEL_WEIGHTS,
    WEIGHTS,
    TextToLatent,
    save_codec,
    save_encoder,
)
from inscape.studies.visual.paraphrasing import Candidate
from inscape.studies.visual.sources import DataConfig, open_source

SENTENCE = SENTENCES[0]
W = ("--weights", "codec.safetensors")


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """The bytes of a codec's file and of an encoder's."""
    folder, tokenizer = tmp_path_factory.mktemp("weights"), open_source(DataConfig()).tokenizer
    save_codec(tiny_codec(tokenizer), folder / "codec.safetensors")
    encoder = LatentEncoder(tiny_encoder(tokenizer.vocab_size)).eval()
    save_encoder(TextToLatent(encoder, tokenizer), RunDir(folder))
    return {name: (folder / name).read_bytes() for name in ("codec.safetensors", WEIGHTS)}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch, contents):
    monkeypatch.chdir(tmp_path)
    for name, content in contents.items():
        Path(name).write_bytes(content)
    Path("lines.txt").write_text("\n\n".join(SENTENCES))


def files() -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in Path().rglob("*")}


def refused(capsys, *words: object) -> str:
    """The one line on stderr of a command that must be refused without a trace on the disk."""
    before = files()
    assert main([str(word) for word in words]) == 2
    assert files() == before
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    return line


def done(capsys, *words: object) -> tuple[list[str], list[str]]:
    """The lines on stdout and stderr of a command that must work."""
    assert main([str(word) for word in words]) == 0
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def the_codec() -> VisualCodec:
    return VisualCodec.from_pretrained("codec.safetensors")


# --- what they do --------------------------------------------------------------------------------------------------


def test_sentences_become_latents_become_sentences(capsys):
    out, err = done(capsys, "encode", "--file", "lines.txt", "--out", "v.safetensors", "--png", "v.png", *W)
    assert out == ["v.safetensors: latents of 3 sentences, 6 x 32 x 32", "v.png: picture"]
    assert err == []
    assert Path("v.png").read_bytes()[:4] == b"\x89PNG"
    with safe_open("v.safetensors", "pt") as file:
        assert json.loads(file.metadata()["sentences"]) == SENTENCES
    latents = load_file("v.safetensors")["latents"]
    assert torch.equal(latents, the_codec().encode(SENTENCES))
    said = [" ".join(text.split()) for text in the_codec().decode(latents)]
    np.save("v.npy", latents.numpy())
    np.save("big_endian.npy", latents.numpy().astype(">f8"))
    np.savez_compressed("v.npz", latents=latents.numpy(), other=np.zeros(3))
    for name in ("v.safetensors", "v.npy", "big_endian.npy", "v.npz"):
        assert done(capsys, "decode", name, *W) == (said, []), name


def test_a_sentence_of_line_ends_stays_on_its_line(capsys, monkeypatch):
    monkeypatch.setattr(VisualCodec, "decode", lambda *_, grammar: ["a\nb  c", ""])
    np.save("v.npy", np.zeros((2, 6, 32, 32), np.float32))
    assert done(capsys, "decode", "v.npy", *W) == (["a b c", ""], [])


GRAMMAR = """start: "two " colour " cones"
colour: "red" | "blue"
"""


def test_nothing_but_sentences_of_a_users_grammar_is_decoded(capsys):
    pytest.importorskip("llguidance")
    np.save("v.npy", the_codec().encode(SENTENCES).numpy())
    Path("cones.lark").write_text(GRAMMAR)
    said, _ = done(capsys, "decode", "v.npy", "--grammar", "cones.lark", *W)
    assert len(said) == 3
    assert set(said) <= {"two red cones", "two blue cones"}
    assert not set(done(capsys, "decode", "v.npy", *W)[0]) & set(said), "without it other things are said"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cones.lark does not exist"),
        (b"", "cones.lark is empty; give a grammar in Lark syntax, from `start: ` on"),
        (b"\xff", "cones.lark, line 1, byte 1 (0xff) is not UTF-8"),
        (b"start: (", "the grammar is malformed: "),
        (b"two red cones", "the grammar is malformed: "),
    ],
)
def test_what_is_no_grammar_for_this_codec_is_refused(capsys, content, said):
    pytest.importorskip("llguidance")
    np.save("v.npy", np.zeros((2, 6, 32, 32), np.float32))
    if content is not None:
        Path("cones.lark").write_bytes(content)
    assert said in refused(capsys, "decode", "v.npy", "--grammar", "cones.lark", *W)


def test_the_package_that_follows_grammars_is_named_where_it_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    np.save("v.npy", np.zeros((2, 6, 32, 32), np.float32))
    Path("cones.lark").write_text(GRAMMAR)
    said = refused(capsys, "decode", "v.npy", "--grammar", "cones.lark", *W)
    assert "a grammar needs the package llguidance: pip install 'inscape[grammar]'" in said


def test_of_a_table_each_cell_is_a_sentence(capsys):
    Path("pairs.tsv").write_text(f"{SENTENCES[0]}\t{SENTENCES[1]}\n\n{SENTENCES[2]}\t\n")
    out, _ = done(capsys, "embed", "--file", "pairs.tsv", "--out", "z.npy", *W)
    assert out == ["z.npy: embeddings of 3 sentences, 256 numbers each"]
    assert np.allclose(np.load("z.npy"), the_codec().embed(SENTENCES), atol=1e-5)
    Path("pairs.tsv").write_text(f"{SENTENCES[0]}\t{'a red ball ' * 60}\n")
    assert "pairs.tsv, line 1, column 2" in refused(capsys, "embed", "--file", "pairs.tsv", "--out", "y.npy", *W)


def test_sentences_become_embeddings(capsys):
    out, err = done(capsys, "embed", "--file", "lines.txt", "--out", "z.npy", *W)
    assert (out, err) == (["z.npy: embeddings of 3 sentences, 256 numbers each"], [])
    z = np.load("z.npy", allow_pickle=False)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, the_codec().embed(SENTENCES).numpy())


def test_similarity_as_a_number_and_as_json(capsys):
    expected = the_codec().similarity(*SENTENCES[:2])
    assert done(capsys, "similarity", *SENTENCES[:2], *W) == ([f"{expected:.4f}"], [])
    out, err = done(capsys, "similarity", *SENTENCES[:2], "--json", *W)
    found = json.loads("\n".join(out))
    assert found == {"first": SENTENCES[0], "second": SENTENCES[1], "cosine": expected, "warnings": []}
    assert err == []


def test_paraphrases_as_lines_and_as_json(capsys, monkeypatch):
    plant(monkeypatch, lambda _: [Candidate(OTHERS[0], 0.1), Candidate(OTHERS[1], 0.2)])
    assert done(capsys, "paraphrase", SENTENCE, "-n", "2", *W) == ([OTHERS[1], OTHERS[0]], [])
    out, err = done(capsys, "paraphrase", SENTENCE, "-n", "3", *W)
    assert out == [OTHERS[1], OTHERS[0]]
    assert "2 of the 3 paraphrases" in err[0]
    out, err = done(capsys, "paraphrase", SENTENCE, "-n", "3", "--json", *W)
    found = json.loads("\n".join(out))
    assert found["sentence"] == SENTENCE
    assert [row["text"] for row in found["paraphrases"]] == [OTHERS[1], OTHERS[0]]
    assert found["paraphrases"][0]["cosine"] == pytest.approx(the_codec().similarity(SENTENCE, OTHERS[1]), abs=1e-5)
    assert "2 of the 3 paraphrases" in found["warnings"][0]
    assert err == [], "one JSON document and nothing else"


def test_strange_sentences_are_told_once_or_refused(capsys):
    strange = "a red zebra is on the blue block"
    _, err = done(capsys, "encode", strange, strange, *W)
    assert len(err) == 1
    assert "'zebra'" in err[0]
    assert "unknown" in err[0]
    out, err = done(capsys, "similarity", strange, SENTENCE, "--json", *W)
    assert "'zebra'" in json.loads("\n".join(out))["warnings"][0]
    assert err == []
    assert "'zebra'" in refused(capsys, "encode", strange, "--strict", "--out", "strict.safetensors", *W)
    assert done(capsys, "encode", SENTENCE, "--strict", "--out", "strict.safetensors", *W)[1] == []


def test_an_encoder_alone_encodes_and_no_more(capsys):
    weights = ("--weights", WEIGHTS)
    assert done(capsys, "encode", SENTENCE, *weights)[1] == []
    for words in (
        ["decode", "latents.safetensors"],
        ["embed", "--file", "lines.txt", "--out", "z.npy"],
        ["paraphrase", SENTENCE],
        ["similarity", SENTENCE, SENTENCE],
    ):
        assert "encoder of P1" in refused(capsys, *words, *weights)


# --- what they refuse ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["decode"], "LATENTS"),
        (["decode", "missing.npy"], "missing.npy does not exist; give a file of latents"),
        (["decode", "."], "cannot be read"),
        (["decode", "lines.txt"], "lines.txt is not a safetensors file or is cut short"),
        (["decode", "codec.safetensors"], "wanted an array named 'latents'"),
        (["paraphrase"], "TEXT"),
        (["paraphrase", SENTENCE, "-n", "many"], "invalid int value: 'many'"),
        (["paraphrase", SENTENCE, "-n", "0"], "n=0 is out of range; allowed: a whole number from 1 to 100"),
        (["paraphrase", SENTENCE, "-n", "101"], "n=101 is out of range"),
        (["paraphrase", ""], "sentence 1 is empty"),
        (["paraphrase", "a red ball and " * 20], "sentence 1: 82 tokens with start and end, allowed 64; shorten"),
        (["similarity", SENTENCE], "B"),
        (["similarity", SENTENCE, " "], "sentence 2 is empty"),
        (["similarity", SENTENCE, "\udcff"], "lone surrogate"),
        (["encode", ""], "sentence 1 is empty"),
        (["embed", "--file", "lines.txt"], "--out"),
        (["embed", "--out", "z.npy"], "--file"),
        (["embed", "--file", "missing.txt", "--out", "z.npy"], "missing.txt does not exist"),
        (["embed", "--file", "lines.txt", "--out", "missing/z.npy"], "its folder is missing"),
        (["embed", "--file", "lines.txt", "--out", "."], "it is a folder"),
        (["embed", "--file", "lines.txt", "--out", "lines.txt"], "would be overwritten"),
        (["embed", "--file", "lines.txt", "--out", "codec.safetensors"], "would be overwritten"),
        (["encode", SENTENCE, "--out", "codec.safetensors"], "would be overwritten"),
        (["encode", SENTENCE, "--png", "x.gif/x"], "its folder is missing"),
        (["embed", "--file", "empty.txt", "--out", "z.npy"], "empty.txt holds no sentence"),
        (["encode", "--file", "binary.txt"], "NUL"),
    ],
)
def test_nonsense_is_refused_in_one_line(capsys, words, said):
    Path("empty.txt").write_text("\n \n")
    Path("binary.txt").write_bytes(bytes(range(256)))
    assert said in refused(capsys, *words, *W)


@pytest.mark.parametrize("name", [WEIGHTS, CODEC_WEIGHTS, MODEL_WEIGHTS, PRIOR_WEIGHTS])
def test_no_file_of_the_weights_folder_is_overwritten(capsys, contents, name):
    Path("trained").mkdir()
    for file in {MODEL_WEIGHTS, name}:
        Path("trained", file).write_bytes(contents["codec.safetensors"])
    said = refused(capsys, "encode", SENTENCE, "--weights", "trained", "--out", f"trained/{name}")
    assert f"trained/{name} is read here, and would be overwritten" in said


def test_two_spellings_of_one_file_are_one(capsys):
    Path("sub").mkdir()
    Path("link").symlink_to("v.out")
    for other in ("sub/../v.out", "link"):
        assert "give two names" in refused(capsys, "encode", SENTENCE, "--out", "v.out", "--png", other, *W)


def test_a_link_is_followed_and_stays(capsys):
    Path("sub").mkdir()
    Path("sub/old.npy").write_bytes(b"old")
    for link, target in (("to_old", "sub/old.npy"), ("to_new", "sub/new.npy")):
        Path(link).symlink_to(target)
        done(capsys, "embed", "--file", "lines.txt", "--out", link, *W)
        assert Path(link).is_symlink()
        assert np.load(target).shape == (3, 256)
    Path("to_weights").symlink_to("codec.safetensors")
    assert "would be overwritten" in refused(capsys, "encode", SENTENCE, "--out", "to_weights", *W)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_what_is_no_file_is_never_replaced(capsys, monkeypatch):
    Path("circle").symlink_to("circle")
    os.mkfifo("pipe")
    monkeypatch.setattr(f"{__name__}.files", lambda: sorted(Path().iterdir()))  # nobody reads a pipe
    for name in ("pipe", os.devnull, "circle"):
        for option in ("--out", "--png"):
            assert f"{name} cannot be written" in refused(capsys, "encode", SENTENCE, option, name, *W)
    assert Path("pipe").is_fifo()


def test_no_name_of_a_file_is_said_back(capsys):
    for words in (["encode", SENTENCE, "--out", "w"], ["similarity", SENTENCE, SENTENCE], ["explore", "--port", "0"]):
        for last in (["--weights", ""], ["--weights="]):
            assert "argument --weights: '' names no file or folder" in refused(capsys, *words, *last)
    assert "argument --out: '' names no file or folder" in refused(capsys, "encode", SENTENCE, "--out", "", *W)


def test_messages_name_the_line_of_the_file(capsys):
    Path("many.txt").write_text(f"{SENTENCE}\n\n\na red zebra is on the blue block\n{SENTENCE}\n")
    for words in (["encode", "--out", "v.safetensors"], ["embed", "--out", "z.npy"]):
        _, (line,) = done(capsys, *words, "--file", "many.txt", *W)
        assert line.startswith("inscape: many.txt, line 4: not a scene sentence: 'zebra'")
    assert "many.txt, line 4: not a" in refused(capsys, "encode", "--file", "many.txt", "--strict", "--out", "w", *W)
    Path("many.txt").write_text(f"\n{SENTENCE}\n\n{SENTENCE} and {' and '.join([SENTENCE] * 9)}\n")
    for words in (["encode", "--out", "w"], ["embed", "--out", "w"]):
        assert "many.txt, line 4: 91 tokens" in refused(capsys, *words, "--file", "many.txt", *W)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(capsys):
    Path("closed").mkdir(mode=0o500)
    assert "closed/z.npy cannot be written" in refused(
        capsys, "embed", "--file", "lines.txt", "--out", "closed/z.npy", *W
    )


@pytest.mark.parametrize("verb", [["decode", "v.npy"], ["paraphrase", SENTENCE], ["similarity", SENTENCE, SENTENCE]])
def test_weights_that_are_none_are_refused_at_every_door(capsys, verb, contents, monkeypatch):
    np.save("v.npy", np.zeros((1, 6, 32, 32), np.float32))
    Path("cut.safetensors").write_bytes(contents["codec.safetensors"][:5000])
    Path("pickle.pt").write_bytes(b"\x80\x04\x95")
    save_file({"latents": torch.zeros(1, 6, 32, 32)}, "latents.safetensors")
    for name, said in {
        "missing": "does not exist",
        "cut.safetensors": "cut short",
        "pickle.pt": "a pickle, which is never read",
        "latents.safetensors": "unknown kind",
    }.items():
        line = refused(capsys, *verb, "--weights", name)
        assert said in line
        assert name in line
    monkeypatch.setattr(codec_module, "SHIPPED", Path("missing"))
    assert "there are no weights yet" in refused(capsys, *verb)


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, allow_pickle=pickled)
    return content.getvalue()


def npz(**arrays: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", array)
    return content.getvalue()


GOOD = np.zeros((1, 6, 32, 32), np.float32)
CLAIM = npy(GOOD).replace(b"(1, 6, 32, 32)", b"(999999999, 6, 32, 32)")  # a header that claims terabytes
OBJECTS = npy(np.array([{"a": 1}], dtype=object), pickled=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\x00" * 64, "cut short"),
        (npy(GOOD)[:-9], "damaged or no plain array"),
        (npy(GOOD)[:20], "damaged or no plain array"),
        (CLAIM, "damaged or no plain array"),
        (OBJECTS, "damaged or no plain array"),
        (npy(np.full_like(GOOD, np.nan)), "latent 1 holds NaN"),
        (npy(np.full_like(GOOD, 1e30)), "latent 1 holds values up to 1e+30"),
        (npy(np.full_like(GOOD, 1e300, dtype=np.float64)), "latent 1 holds values up to 1e+300"),
        (npy(GOOD[0]), "shape (6, 32, 32); allowed: floats of shape (B, 6, 32, 32)"),
        (npy(GOOD[:0]), "B at least 1"),
        (npy(GOOD.astype(np.uint8)), "latents are int64; allowed: floats"),
        (npy(GOOD.astype(complex)), "holds complex128; wanted floats"),
        (npy(np.array(["a red ball"])), "wanted floats"),
        (npz(latents=npy(GOOD))[:-30], "damaged .npz"),
        (npz(latents=npy(GOOD)).replace(b"PK\x01\x02", b"PK\x09\x09"), "damaged .npz"),
        (npz(other=npy(GOOD)), "holds 'other'; wanted an array named 'latents'"),
        (npz(), "holds nothing; wanted an array named 'latents'"),
        (npz(latents=OBJECTS), "holds no plain array"),
        (npz(latents=npy(GOOD)[:-9]), "holds no plain array"),
        (npz(latents=b"none"), "holds no plain array"),
        (npz(latents=npy(GOOD.astype(complex))), "wanted floats"),
        (b"\x80\x04\x95pickle", "looks like a pickle, which is never read here"),
    ],
)
def test_files_that_hold_no_latents_are_refused(capsys, content, said):
    Path("v.any").write_bytes(content)
    line = refused(capsys, "decode", "v.any", *W)
    assert said in line


def test_an_archive_that_unpacks_to_too_much_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(codec_files, "LARGEST_ARRAY", 1 << 10)
    Path("v.npz").write_bytes(npz(latents=npy(np.zeros((99, 6, 32, 32)))))
    assert "unpacks to more than" in refused(capsys, "decode", "v.npz", *W)
