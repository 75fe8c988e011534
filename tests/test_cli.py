"""Every door of the command line: nonsense gets one line and status 2 and leaves nothing behind; the rest works."""

import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from inscape import cli, codec_verbs
from inscape.cli import main


def refused(capsys, *words: str) -> str:
    """The one line on stderr of a command that must be refused."""
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "VERB"),
        ("frobnicate", "invalid choice"),
        ("run", "STUDY[.PHASE]"),
        ("run nothing", "there is no study 'nothing'; there are: visual"),
        ("run visual.P9", "no phase 'P9'; there are: P0, P1, P2, P3, P4, P5"),
        ("run visual --preset huge", "invalid choice: 'huge'"),
        ("run visual.P0 --seed x", "invalid int value"),
        ("run visual.P0 --seed -1", "--seed -1"),
        ("run visual.P0 drawz=3", "did you mean draws"),
        ("run visual.P0 draws=lots", "draws"),
        ("run visual.P0 draws=3", "draws=3 is out of range; allowed: 100 or more"),
        ("run visual.P0 data.facts=7", "data.facts=7 is out of range; allowed: 0 (mixed), 1, 2, 3"),
        ("run visual.P0 data=3", "data is a group"),
        ("run visual.P0 draws", "not key=value"),
        ("run visual.P0 =3", "not key=value"),
        ("run visual.P1 recipe=secret", "recipe='secret' is out of range; allowed: plan, calibrated"),
        ("run visual.P1 fit.lr=-1", "lr"),
        ("run visual.P1 blur_sigma=1e9", "0 to 16 pixels"),
        ("run visual.P1 encoder.layers=1000000000", "layers"),
        ("run visual.P1 encoder.d=1048576", "encoder.d"),
        ("run visual.P0 data.vocab=300", "splits the grammar's words"),
        ("run visual.P1 encoder.head=moon", "head must be grid, light, vector or slots"),
        ("run visual.P1 weights.tv=nan", "weights.tv"),
        ("resume nowhere", "not a folder"),
        ("judge .", "not a run folder"),
        ("report .", "not a run folder"),
        ("status --out typo", "typo is not a folder; give the folder that the runs are kept in with --out"),
        ("status --out /dev/null", "/dev/null is not a folder"),
        (f"status --out {'a' * 300}", "aaa is not a folder; give the folder that the runs are kept in with --out"),
        (f"judge {'a' * 300}", "aaa cannot be opened: File name too long; a run is a folder runs/"),
        (f"run visual.P0 --preset smoke --out {'a' * 300}", "runs cannot be kept under aaa"),
        ("config visual", "name one phase"),
        ("config visual.P9", "no phase 'P9'"),
        ("bench nothing", "there are: "),
        ("encode", "nothing to encode"),
        ("encode text --file f.txt", "not both"),
        ("encode --file missing.txt", "missing.txt does not exist"),
        ("encode text --out missing/latents.safetensors", "its folder is missing"),
        ("encode text", "there are no weights yet"),
        ("encode text --weights missing.safetensors", "missing.safetensors does not exist"),
    ],
)
def test_nonsense_is_refused_in_one_line(capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.setattr("inscape.codec.SHIPPED", tmp_path / "missing")  # as in a package without weights
    assert said in refused(capsys, *words.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "visual", "--out", ""], "--out"),
        (["run", "visual", "--ou", ""], "--out"),
        (["run", "visual", "--ou="], "--out"),
        (["status", "--o", ""], "--out"),
        (["explore", "--weigh", ""], "--weights"),
        (["export", "", "--format", "hf"], "OUT"),
        (["export", "--format", "hf", "--", ""], "OUT"),
        (["decode", ""], "LATENTS"),
    ],
)
def test_no_word_at_all_is_no_path(capsys, tmp_path, words, said):
    assert f"argument {said}: '' names no file or folder; see " in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_text_that_cannot_be_read_is_refused_and_leaves_no_run(capsys, tmp_path):
    for name, content in {"empty.txt": b"", "latin.txt": "caf\xe9\n".encode("latin-1"), "zero.txt": b"a\0b\n"}.items():
        (tmp_path / name).write_bytes(content)
        assert main(["run", "visual.P0", "--preset", "smoke", f"data.text={name}"]) == 2
        assert name in capsys.readouterr().err.splitlines()[-1]
    assert main(["run", "visual.P0", "--preset", "smoke", "data.text=missing.txt"]) == 2
    assert not list((tmp_path / "runs").rglob("env.json"))


def test_p1_without_p0_is_shut_and_says_so(capsys):
    assert main(["run", "visual.P1", "--preset", "quick"]) == 0
    assert "visual.P1 is shut" in capsys.readouterr().err


def test_list_config_and_status_as_json(capsys):
    assert main(["list", "--json"]) == 0
    phases = json.loads(capsys.readouterr().out)[0]["phases"]
    assert [phase["code"] for phase in phases] == ["P0", "P1", "P2", "P3", "P4", "P5", "P6", "P7"]
    assert main(["status", "--json"]) == 0
    assert all(not row["passed"] for row in json.loads(capsys.readouterr().out))
    assert main(["config", "visual.P1", "--preset", "full"]) == 0
    assert "steps: 50000" in capsys.readouterr().out
    assert main(["config", "visual.P2", "data.text=mine.tsv", "codec.heads=3", "--preset", "small"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["codec"]["d"], shown["codec"]["heads"]) == (192, 3), "the corpus's part, then the change"
    assert main(["list"]) == main(["status"]) == 0
    assert "visual.P0" in capsys.readouterr().out


def test_the_help_of_run_says_what_opens_gates_and_what_does_not(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["run", "--help"]) == 0
    said = "config changes; such a run never opens a gate; data.* names a corpus, with gates of its own"
    assert said in " ".join(capsys.readouterr().out.split())


def test_errors_name_the_program_as_it_was_called(capsys, monkeypatch):
    monkeypatch.setenv("INSCAPE_COMMAND", "./inscape")
    assert refused(capsys, "judge").endswith("; see ./inscape judge --help")


# --- where the output goes ----------------------------------------------------------------------------------------


def prints(_) -> int:
    print("a line")
    return 0


def prints_and_refuses(_) -> int:
    print("a line")
    raise ValueError("no such thing")


VERBS = [
    # the words, what `list` does, its status, and what it says where its output can be written
    (["--help"], prints, 0, []),
    (["list"], prints, 0, []),
    (["list"], prints_and_refuses, 2, ["inscape: no such thing"]),
]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(("words", "do", "status", "said"), VERBS)
def test_output_that_finds_no_room_is_one_line(capsys, monkeypatch, words, do, status, said):
    monkeypatch.setattr(cli, "_list", do)
    with Path("/dev/full").open("w") as full:  # closing it fails if anything is left to write
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words) == (status or 1)
    assert capsys.readouterr().err.splitlines() == (said or ["inscape: No space left on device"])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE to speak of")
@pytest.mark.parametrize(("words", "do", "status", "said"), VERBS)
def test_output_that_nobody_reads_is_let_go(capsys, monkeypatch, words, do, status, said):
    monkeypatch.setattr(cli, "_list", do)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(words) == (status or 1)
    assert capsys.readouterr().err.splitlines() == said


@pytest.mark.parametrize(("words", "do", "status", "said"), VERBS[1:])
def test_output_that_was_closed_is_no_failure(capsys, monkeypatch, words, do, status, said):
    monkeypatch.setattr(cli, "_list", do)
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it after >&-
    assert main(words) == status
    codec_verbs._say(["few"])
    assert capsys.readouterr().err.splitlines() == [*said, "inscape: few"]


class Interrupted(ModuleType):
    """A module that is being loaded when the user presses Ctrl-C."""

    def __getattr__(self, name: str) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_before_the_verb_begins_is_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "inscape.stopping", Interrupted("inscape.stopping"))
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "inscape: interrupted\n"


def test_smoke_study_from_run_to_picture(capsys, tmp_path):
    assert main(["run", "visual", "--preset", "smoke"]) == 0
    capsys.readouterr()
    run = next((tmp_path / "runs/visual/P1/smoke").glob("*-s0"))
    assert main(["judge", str(run), "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["gate_changed_since"] is False
    assert main(["judge", str(run), "--strict"]) == 3
    assert main(["report", str(run)]) == 0
    capsys.readouterr()
    assert "finished" in refused(capsys, "resume", str(run))

    (tmp_path / "two.txt").write_text("a red ball is on the blue block\n\nthe blue block supports a red ball\n")
    words = ["encode", "--file", "two.txt", "--out", "two.safetensors", "--png", "two.png"]
    assert main(words) == 0
    assert "latents of 2 sentences, 6 x 32 x 32" in capsys.readouterr().out
    assert (tmp_path / "two.png").read_bytes()[:4] == b"\x89PNG"

    from safetensors import safe_open

    with safe_open(tmp_path / "two.safetensors", "pt") as file:
        assert file.get_tensor("latents").shape == (2, 6, 32, 32)
        assert json.loads(file.metadata()["sentences"])[0].startswith("a red ball")

    long = "a red ball is on the blue block and " * 8
    assert "tokens with start and end, allowed 64" in refused(capsys, "encode", long)
    weights = run / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(weights) in refused(capsys, "encode", "a ball", "--weights", str(run))
