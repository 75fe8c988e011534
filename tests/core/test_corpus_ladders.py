"""`data.*` overrides make a ladder of their own: it stands on itself and never on, or under, the declared one."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from planted_study import Config, MakeWorld, measure

from inscape.core.config import from_yaml
from inscape.core.corpus import CONTENTS, READ_WHOLE, changed_contents, contents_of, corpus_of
from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir, find_runs
from inscape.core.runner import resume
from inscape.core.study import Context
from inscape.show import status_rows, status_table

MINE, OTHER = ("data.text=mine",), ("data.text=other",)


def test_a_corpus_carries_its_own_ladder(world: MakeWorld) -> None:
    w = world()
    done = w.run(overrides=MINE)
    assert [run.path.parent.parent.name for run in done] == ["P1", "P2", "P3"]
    assert w.standing("P3", corpus=MINE)[0]
    assert done[0].read_json(RunDir.ENV)["corpus"] == list(MINE)


def test_a_corpus_may_be_asked_with_fewer_seeds(world: MakeWorld) -> None:
    across = Gate([Criterion("spread_of_recall", at_most=0.1)])
    w = world(seeds=(0, 1, 2), corpus_seeds=(5,), across_seeds=across)
    assert [run.read_json(RunDir.ENV)["seed"] for run in w.run("P1", overrides=MINE)] == [5]
    assert w.standing(corpus=MINE)[0]
    assert not any("across seeds" in line for line in w.said)
    w.run("P1", overrides=OTHER, seed=0)
    assert not w.standing(corpus=OTHER)[0], "that seed is not declared for a corpus"
    w.run("P1", seed=0)
    assert not w.standing()[0], "the declared corpus still wants three"
    assert len(w.run("P1")) == 3
    assert w.standing()[0]


def test_seeds_of_a_corpus_are_checked_like_all(world: MakeWorld) -> None:
    with pytest.raises(ValueError, match=r"seeds \(1, 1\): wanted at least one, all different"):
        world(corpus_seeds=(1, 1))


def test_it_opens_neither_the_declared_ladder_nor_another_corpus(world: MakeWorld) -> None:
    w = world()
    w.run("P1", overrides=MINE)
    assert not w.standing()[0]
    assert not w.may_run("P2")
    assert not w.may_run("P2", corpus=OTHER)
    assert w.may_run("P2", corpus=MINE)


def test_the_declared_ladder_opens_no_corpus(world: MakeWorld) -> None:
    w = world()
    w.run("P1")
    assert not w.may_run("P2", corpus=MINE)


def test_any_other_override_beside_it_counts_for_nothing(world: MakeWorld) -> None:
    w = world()
    w.run("P1", overrides=(*MINE, "signal=1.0"))
    assert not w.standing(corpus=MINE)[0]
    assert not w.standing()[0]


def test_the_last_word_on_a_key_is_what_ran(world: MakeWorld) -> None:
    w = world()
    w.run("P1", overrides=("data.size=3", "data.size=4"))
    assert not w.standing(corpus=("data.size=3",))[0]
    assert not w.standing(corpus=("data.size=4",))[0]
    assert w.standing(corpus=("data.size=3", "data.size=4"))[0]


def test_an_edited_corpus_in_the_record_opens_nothing(world: MakeWorld) -> None:
    w = world()
    (run,) = w.run("P1", overrides=MINE)
    run.write_json(RunDir.ENV, run.read_json(RunDir.ENV) | {"corpus": []})
    assert not w.standing()[0]
    assert not w.standing(corpus=MINE)[0]


def test_what_a_preset_declares_for_a_corpus_counts_as_declared(world: MakeWorld, tmp_path: Path) -> None:
    w = world()
    presets = tmp_path / "on.yaml"
    presets.write_text("smoke: {n: 4}\nquick:\nquick on data.text: {n: 60}\nfull: {n: 200}\n")
    w = w.with_phase(presets=presets)
    (run,) = w.run("P1", overrides=MINE)
    assert "'n': 60" in (run.path / RunDir.CONFIG).read_text()
    assert run.read_json(RunDir.ENV)["overrides"] == {"data.text": "mine"}
    assert w.may_run("P2", corpus=MINE)
    assert not w.standing()[0]
    presets.write_text("smoke: {n: 4}\nquick:\nquick on data.text: {n: 61}\nfull: {n: 200}\n")
    assert not w.may_run("P2", corpus=MINE)


def test_words_that_name_the_corpus() -> None:
    assert corpus_of(("signal=1", "data.text=b", " data.size=3")) == (" data.size=3".strip(), "data.text=b")
    assert corpus_of(("database=1",)) == ()
    assert corpus_of(("data={text: b, size: 3}", "n=1")) == ("data.size=3", "data.text=b")
    assert corpus_of((" data={text: ' b'}",)) == ('data.text=" b"',)
    assert corpus_of(("data=3",)) == corpus_of(("data={}",)) == ()


def test_a_corpus_named_as_a_group_is_the_same_ladder(world: MakeWorld, tmp_path: Path) -> None:
    presets = tmp_path / "on.yaml"
    presets.write_text("smoke: {n: 4}\nquick:\nquick on data.text: {n: 60}\nfull: {n: 200}\n")
    w = world().with_phase(presets=presets)
    (run,) = w.run("P1", overrides=("data={text: mine}",))
    assert "'n': 60" in str(from_yaml(Config, run.path / RunDir.CONFIG).__dict__)
    assert run.read_json(RunDir.ENV)["corpus"] == list(MINE)
    assert w.may_run("P2", corpus=MINE)


def test_rewording_a_reason_or_reordering_criteria_keeps_a_gate_open(world: MakeWorld) -> None:
    w = world()
    w.run("P1")
    recall, leak = w.study.phase("P1").gate.criteria
    reworded = Criterion("leak", at_most=0.1, role="control", why="in other words")
    assert w.with_phase(gate=Gate([recall, reworded])).standing()[0]
    assert w.with_phase(gate=Gate([leak, recall])).standing()[0]
    assert not w.with_phase(gate=Gate([recall, leak, Criterion("leak", at_most=0.2)])).standing()[0]


# --- what the file held -------------------------------------------------------------------------------------------


def test_a_file_that_changed_shuts_what_was_measured_on_it(world: MakeWorld, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("a red ball\n")
    own = (f"data.text={text}",)
    w = world()
    w.run(overrides=own)
    assert w.standing("P3", corpus=own)[0]
    text.write_text("a blue ball\n")
    open_now, reasons = w.standing(corpus=own)
    assert not open_now
    assert "read other contents than are there now: data.text=" in reasons[0]
    assert not w.may_run("P2", corpus=own)
    w.run("P1", overrides=own)
    assert w.may_run("P2", corpus=own), "measured anew"
    assert not w.standing("P2", corpus=own)[0], "P2 was built on the P1 of before"
    text.write_text("a red ball\n")
    assert w.standing("P3", corpus=own)[0], "put back, the older runs count again"


def test_runs_on_different_contents_are_not_taken_together(world: MakeWorld, tmp_path: Path) -> None:
    """Also where the file is gone, so that nothing is left to be compared with."""
    text = tmp_path / "own.txt"
    own = (f"data.text={text}",)
    w = world(seeds=(0, 1))
    for seed in (0, 1):
        text.write_text(f"sentence {seed}\n")
        w.run("P1", overrides=own, seed=seed)
    text.unlink()
    open_now, reasons = w.standing(corpus=own)
    assert not open_now
    assert reasons == ("P1 seed 0: not run",)
    text.write_text("sentence 0\n")
    w.run("P1", overrides=own, seed=1)
    text.unlink()
    assert w.standing(corpus=own)[0]


def test_a_run_built_on_another_text_does_not_count(world: MakeWorld, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("one\n")
    own = (f"data.text={text}",)
    w = world()
    w.run("P1", overrides=own)
    (run,) = w.run("P2", overrides=own)
    run.write_json(RunDir.ENV, run.read_json(RunDir.ENV) | {CONTENTS: {own[0]: "sha256:other"}})
    text.unlink()
    assert w.standing("P1", corpus=own)[0]
    (reason,) = w.standing("P2", corpus=own)[1]
    assert "was built on a run of P1 that read other contents of data.text=" in reason


def test_no_run_goes_on_over_another_text(world: MakeWorld, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("one\n")
    own = (f"data.text={text}",)
    w = world()
    (run,) = w.run("P1", overrides=own)
    (run.path / RunDir.VERDICT).unlink()
    text.write_text("two\n")
    with pytest.raises(ValueError, match=r"data\.text=.*own\.txt holds something else than when .* put back what it"):
        resume(w.study, run, lambda _: None)
    text.write_text("one\n")
    assert resume(w.study, run, lambda _: None).passed


def test_pushed_past_a_gate_a_run_builds_on_no_other_text(world: MakeWorld, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("one\n")
    own = (f"data.text={text}",)
    w = world()
    w.run("P1", overrides=own)
    text.write_text("two\n")
    with pytest.raises(ValueError, match="has no finished quick run to build on"):
        w.run("P2", overrides=own, despite_gate="to see")


def test_contents_of_files_folders_and_what_is_neither(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.wav").write_bytes(b"1234")
    (tmp_path / "text").write_bytes(b"abc")
    words = tuple(f"data.{key}={tmp_path / key}" for key in ("sounds", "text"))
    before = contents_of((*words, "data.size=3", "data.text=", f"data.other={'x' * 5000}", "data.nul=a\0b"))
    assert set(before) == set(words)
    assert before[words[1]] == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert contents_of((f"data.text='{tmp_path / 'text'}'",)).popitem()[1] == before[words[1]], "quotes are no name"
    (tmp_path / "sounds" / "a.wav").write_bytes(b"12345")
    (tmp_path / "text").write_bytes(b"abd")
    after = contents_of(words)
    assert all(after[word] != before[word] for word in words)
    (tmp_path / "sounds" / "a.wav").rename(tmp_path / "sounds" / "b.wav")
    assert contents_of(words)[words[0]] != after[words[0]]


def test_weights_that_changed_under_one_name_are_others(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "encoder.tflite").write_bytes(b"1234")
    words = ("data.codec=lyra:weights", f"data.other=log-mel:{tmp_path / 'weights' / 'encoder.tflite'}")
    before = contents_of(
        (*words, "data.codec=log-mel:12.5", "data.codec=mimi:nowhere", "data.codec=:weights"), tmp_path
    )
    assert set(before) == set(words)
    assert contents_of(words, tmp_path, folders=False) == before, "no phase fills a folder of weights"
    (tmp_path / "weights" / "encoder.tflite").write_bytes(b"12345"[1:])
    after = contents_of(words, tmp_path)
    assert all(after[word] != before[word] for word in words), "as many bytes, and other ones"
    (tmp_path / "lyra:weights").mkdir()
    assert contents_of(words, tmp_path)[words[0]] != after[words[0]], "a name with a colon is a name first"


def test_more_weights_than_can_be_read_each_time_count_by_names_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    big = tmp_path / "weights" / "model.bin"
    words = ("data.model=llava:weights",)
    big.write_bytes(b"1234")
    assert contents_of(words, tmp_path)[words[0]].startswith("names-and-contents:")
    os.truncate(big, READ_WHOLE + 1)  # holes: nothing is written
    before = contents_of(words, tmp_path, folders=False)
    assert before[words[0]].startswith("names-and-sizes:")
    os.truncate(big, READ_WHOLE + 2)
    assert contents_of(words, tmp_path) != before


def test_relative_names_are_meant_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"abc")
    assert contents_of(("data.text=text",)) == {}
    found = contents_of(("data.text=text",), tmp_path)
    assert list(found.values()) == list(contents_of((f"data.text={tmp_path / 'text'}",)).values())
    assert changed_contents(found, ("data.text=text",), tmp_path) == []
    assert changed_contents({}, ("data.text=text",), str(tmp_path)) == ["data.text=text"]


def test_a_folder_may_be_filled_by_the_first_phase(world: MakeWorld, tmp_path: Path) -> None:
    """As where a corpus is downloaded into it: what it holds when the phase ends is what counts."""
    folder = tmp_path / "sounds"
    own = (f"data.text={folder}",)

    def fetching(context: Context) -> Mapping[str, Estimate]:
        folder.mkdir(exist_ok=True)
        (folder / "a.wav").write_bytes(b"1234")
        return measure(context)

    w = world(run=fetching)
    w.run(overrides=own)
    assert w.standing("P3", corpus=own)[0]
    (folder / "b.wav").write_bytes(b"5")
    assert not w.standing(corpus=own)[0]


def test_a_fetch_that_was_stopped_goes_on(world: MakeWorld, tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    own = (f"data.text={folder}",)

    def stopped(context: Context) -> Mapping[str, Estimate]:
        again = folder.exists()
        folder.mkdir(exist_ok=True)
        if not again:
            raise KeyboardInterrupt
        return measure(context)

    w = world(run=stopped)
    with pytest.raises(KeyboardInterrupt):
        w.run("P1", overrides=own)
    (run,) = find_runs(w.root)
    assert resume(w.study, run, lambda _: None).passed
    assert w.standing(corpus=own)[0]


def test_the_status_has_a_row_for_each_corpus_with_its_own_runs_and_its_own_gate(world: MakeWorld) -> None:
    w = world()
    w.run("P1", overrides=MINE)
    w.run("P1", overrides=OTHER, preset="full")
    w.run("P1", overrides=("signal=0.1",))
    rows = {(r["phase"], r["preset"], *r["corpus"]): r for r in status_rows([w.study], w.root)}
    assert [key for key in rows if key[0] == "P1"] == [("P1", "quick"), ("P1", "quick", *MINE), ("P1", "full", *OTHER)]
    own, declared = rows["P1", "quick", *MINE], rows["P1", "quick"]
    assert (own["passed"], own["missing"], [r["outcome"] for r in own["runs"]]) == (True, [], ["PASS"])
    assert (declared["passed"], [r["outcome"] for r in declared["runs"]]) == (False, ["FAIL"])
    assert declared["missing"] == ["P1 has no finished quick run under today's config and gate"]
    w.run("P2", overrides=MINE)
    rows = {(r["phase"], *r["corpus"]): r for r in status_rows([w.study], w.root) if r["preset"] == "quick"}
    assert (rows["P2", *MINE]["may_run"], rows["P2",]["may_run"]) == (True, False)


def test_the_status_shows_a_corpus_as_it_was_typed(world: MakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    w = world()
    w.run("P1", overrides=("data.text=[red]",))
    status_table(status_rows([w.study], w.root))
    assert "data.text=[red]" in "".join(capsys.readouterr().out.replace("│", "").split())
