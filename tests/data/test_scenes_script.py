"""`python -m inscape.data.scenes` writes whole files, equal for equal arguments, and refuses nonsense in one line."""

import subprocess
import sys

import pytest

from inscape.data.scenes import count_sentences, parse, split_of
from inscape.data.scenes.__main__ import main


def test_the_module_writes_the_sentences_it_was_asked_for(tmp_path):
    file = tmp_path / "train.txt"
    command = [sys.executable, "-m", "inscape.data.scenes", "--num", "500", "--complexity", "1", "--seed", "42"]
    done = subprocess.run([*command, "--output", str(file)], capture_output=True, text=True, check=True)
    lines = file.read_text().splitlines()
    scenes = [parse(line) for line in lines]
    assert len(lines) == 500
    assert {len(scene.facts) for scene in scenes} == {1}
    assert {split_of(scene) for scene in scenes} == {"train"}
    assert f"500 sentences, {len(set(lines))} of them distinct" in done.stdout
    assert "the grammar has 42,221,564,928 distinct sentences of complexity 1" in done.stdout
    assert done.stderr == ""


def test_the_file_is_a_function_of_the_arguments(tmp_path, capsys):
    names = {"a": "3", "b": "3", "c": "4"}
    for name, seed in names.items():
        assert main(["--num", "50", "--complexity", "mixed", "--seed", seed, "--output", str(tmp_path / name)]) == 0
    a, b, c = ((tmp_path / name).read_text() for name in names)
    assert a == b != c
    assert {len(parse(line).facts) for line in a.splitlines()} == {1, 2, 3}
    assert f"{count_sentences():,} distinct sentences of complexity mixed" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["validation", "heldout"])
def test_a_split_can_be_chosen(tmp_path, split):
    main(["--num", "20", "--split", split, "--output", str(tmp_path / "x")])
    assert {split_of(parse(line)) for line in (tmp_path / "x").read_text().splitlines()} == {split}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num", "0"], "argument --num: '0' is not a whole number from 1 to 10000000"),
        (["--num", "-5"], "argument --num: '-5' is not a whole number"),
        (["--num", "many"], "argument --num: 'many' is not a whole number"),
        (["--num", "5", "--complexity", "4"], "argument --complexity: invalid choice: '4'"),
        (["--num", "5", "--seed", "-1"], "argument --seed: '-1' is not a whole number"),
        (["--num", "5", "--split", "dev"], "argument --split: invalid choice: 'dev'"),
        (["--num", "5", "--nmu", "5"], "unrecognized arguments: --nmu 5"),
        ([], "the following arguments are required: --num"),
    ],
)
def test_nonsense_is_refused_in_one_line(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output", str(tmp_path / "x")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"inscape.data.scenes: {message}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path, capsys):
    for output, message in (
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "no" / "x", "does not exist; make it first"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["--num", "5", "--output", str(output)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_the_old_file(tmp_path, capsys, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("inscape.data.scenes.__main__.write_atomically", full)
    file = tmp_path / "x"
    file.write_text("old")
    with pytest.raises(SystemExit) as stop:
        main(["--num", "5", "--output", str(file)])
    assert stop.value.code == 2
    assert "No space left on device" in capsys.readouterr().err
    assert file.read_text() == "old"
