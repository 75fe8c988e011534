"""The command line under a careless or unlucky user: one line, the right status, nothing half-written, a way on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inscape.cli import main
from inscape.core.rundir import RunDir
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.studies.visual import corpus, imageness
from inscape.studies.visual.model import WEIGHTS, TextToLatent, save_encoder
from inscape.studies.visual.sources import DataConfig, open_source

SENTENCE = "a red ball is on the blue block"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    source = open_source(DataConfig())
    sizes = LatentEncoderConfig(vocab=source.tokenizer.vocab_size, d=32, layers=1, heads=2, ffn=32, head="light")
    run = RunDir(tmp_path_factory.mktemp("run"))
    save_encoder(TextToLatent(LatentEncoder(sizes).eval(), source.tokenizer), run)
    return run.path


@pytest.fixture
def weights(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "trained")
    return Path("trained")


def files() -> dict[Path, int]:
    """Everything on the disk, files with the time of their last change; locks come and go."""
    found = (path for path in Path().rglob("*") if path.name != ".lock")
    return {path: 0 if path.is_dir() else path.stat().st_mtime_ns for path in found}


def refused(capsys, *words: object) -> str:
    """The one line on stderr of a command that must be refused without a trace on the disk."""
    before = files()
    assert main([str(word) for word in words]) == 2
    assert files() == before
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    return line


@pytest.mark.parametrize("phase", ["visual", "visual.P0"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (b"", "the file is empty"),
        (b"\n \n", "only blank lines"),
        (bytes(range(256)), "NUL"),
        ("caf\xe9\n".encode("latin-1"), "not UTF-8"),
        (b"a ball\na ring\n", "too few sentences"),
    ],
)
def test_a_corpus_is_looked_at_before_a_run_is_made(capsys, phase, content, said):
    if content is not None:
        Path("corpus.txt").write_bytes(content)
    line = refused(capsys, "run", phase, "--preset", "smoke", "data.text=corpus.txt")
    assert said in line
    assert "corpus.txt" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_found_before_a_run_is_made(capsys):
    assert "use device auto or cpu" in refused(capsys, "run", "visual.P0", "--preset", "smoke", "--device", "cuda")


def test_several_processes_are_refused_where_one_must_do(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = refused(capsys, "run", "audio-fusion.phase1", "--preset", "smoke")
    assert "torchrun started 2 processes, and audio-fusion.phase1 runs in one" in line
    assert "start it without torchrun" in refused(capsys, "sweep", "visual.P1", "--preset", "smoke")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\0b\n", "NUL"),
        (b"", "holds no sentence"),
        (b"\xff\n", "not UTF-8"),
        (b"a ball\n\n\n" + b"a ball " * 60, "lines.txt, line 4: 122 tokens"),
    ],
)
def test_sentences_that_cannot_be_encoded(capsys, weights, content, said):
    Path("lines.txt").write_bytes(content)
    assert said in refused(capsys, "encode", "--file", "lines.txt", "--weights", weights)


def test_a_byte_order_mark_is_no_part_of_the_sentence(capsys, weights):
    Path("lines.txt").write_bytes(b"\xef\xbb\xbf" + SENTENCE.encode())
    for i, words in enumerate((["--file", "lines.txt"], [SENTENCE])):
        assert main(["encode", *words, "--weights", str(weights), "--out", f"{i}.safetensors"]) == 0
    assert Path("0.safetensors").read_bytes() == Path("1.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "folder"], "it is a folder"),
        (["--out", "file/x"], "its folder is missing"),
        (["--png", "missing/x.png"], "its folder is missing"),
        (["--out", "x" * 300], "cannot be written"),
        (["--png", "y" * 300], "cannot be written"),
        (["--out", "same", "--png", "same"], "give two names"),
        (["--out", f"trained/{WEIGHTS}"], "would be overwritten"),
        (["--png", f"folder/../trained/{WEIGHTS}"], "would be overwritten"),
        (["--out", "lines.txt"], "would be overwritten"),
    ],
)
def test_latents_go_only_where_they_harm_nothing(capsys, weights, words, said):
    Path("folder").mkdir()
    Path("file").touch()
    Path("lines.txt").write_text(SENTENCE)
    assert said in refused(capsys, "encode", "--file", "lines.txt", "--weights", weights, *words)


def test_words_after_two_dashes_are_never_options(capsys, monkeypatch):
    heard = []
    for name in ("encode", "similarity", "decode"):
        monkeypatch.setattr(f"inscape.codec_verbs.{name}_verb", heard.append)
    for words in (
        ["encode", "--", "-a", "b", "--", "--out"],
        ["similarity", "--json", "--", "-a", "b"],
        ["decode", "--weights", "w", "--", "-v.npy"],
        ["encode", "a", "--strict", "b", "--", "c"],
    ):
        assert main(words) == 0
    assert [heard[0].texts, heard[3].texts] == [["-a", "b", "--", "--out"], ["a", "b", "c"]]
    assert (heard[1].first, heard[1].second, heard[1].json) == ("-a", "b", True)
    assert heard[2].latents == Path("-v.npy")
    assert refused(capsys, "similarity", "--", "-a", "b", "-c").startswith(
        "inscape similarity: unrecognized arguments: -c"
    )


def test_a_name_that_stdout_cannot_write_is_escaped_and_no_failure(weights):
    words = ["encode", SENTENCE, "--weights", str(weights), "--out", "\u8d64.st"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    run = subprocess.run([sys.executable, "-m", "inscape", *words], capture_output=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(b"\\u8d64.st: latents of 1 sentences")
    assert Path("\u8d64.st").is_file()


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "parse_errors", interrupted)
        assert main(["run", "visual.P0", "--preset", "smoke"]) == 130
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "interrupted; continue with: inscape resume " in last
    run = last.rsplit(" ", 1)[1]

    with RunDir(Path(run)).exclusive():
        assert "being run by another process" in refused(capsys, "resume", run)
    env = Path(run, RunDir.ENV)
    whole = env.read_text()
    env.write_text(json.dumps({key: value for key, value in json.loads(whole).items() if key != "corpus"}))
    assert "damaged: corpus" in refused(capsys, "resume", run)
    env.write_text("[" * 100_000)
    assert "env.json is damaged" in refused(capsys, "resume", run)
    env.write_text(whole)

    assert main(["resume", run]) == 0
    assert Path(run, RunDir.VERDICT).is_file()
    capsys.readouterr()
    assert "is finished" in refused(capsys, "resume", run)


def test_a_run_whose_input_is_gone_is_not_resumed(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(imageness, "train", interrupted)
        assert main(["run", "visual", "--preset", "smoke"]) == 130
    run = capsys.readouterr().err.strip().rsplit(" ", 1)[1]
    shutil.rmtree("runs/visual/P0")
    assert "builds on a run of P0 that cannot be read" in refused(capsys, "resume", run)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE to speak of")
def test_a_reader_that_leaves_early_is_no_fault():
    words = [sys.executable, "-m", "inscape", "config", "visual.P1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
