"""Words to jobs: how values are separated, that all combinations are made, and that nonsense is refused at once."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_jobs import planted, run_planted, toy

from inscape.cluster import product
from inscape.cluster.jobs import JOBS
from inscape.cluster.product import default_folder, make_jobs, read_axes, read_seeds, split_values
from inscape.core.program import program
from inscape.core.study import Study


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", ("1",)),
        ("", ("",)),
        ("1,2,3", ("1", "2", "3")),
        (" 1 , 2 ", ("1", "2")),
        ("[1,2],[3,4]", ("[1,2]", "[3,4]")),
        ("[[1,2],[3]],[]", ("[[1,2],[3]]", "[]")),
        ("{a: 1, b: 2},x", ("{a: 1, b: 2}", "x")),
        ("'a,b',\"c,d\"", ("'a,b'", '"c,d"')),
        ("['a]',2],3", ("['a]',2]", "3")),
        ("{a: ',x'},3", ("{a: ',x'}", "3")),
        ('"a\\",b",c', ('"a\\",b"', "c")),
        ("'it''s, well',b", ("'it''s, well'", "b")),
        ("it's.txt,b", ("it's.txt", "b")),
        ("a(1,2),b", ("a(1,2)", "b")),
        ("C:'x,y", ("C:'x", "y")),
    ],
)
def test_commas_in_brackets_and_quotes_separate_nothing(text: str, values: tuple[str, ...]) -> None:
    assert split_values(text) == values


@pytest.mark.parametrize("text", ["[1,2", "1]", "(1]", "'a,b", '"a\\"', "{", "[1,2}"])
def test_what_is_not_closed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not closed|do not match"):
        split_values(text)


VALUE = st.recursive(
    st.from_regex(r"[a-z0-9.]{1,4}", fullmatch=True) | st.from_regex(r"'[a-z,\[\]]{0,4}'", fullmatch=True),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
    max_leaves=6,
)


@given(st.lists(VALUE, min_size=1, max_size=5))
def test_splitting_undoes_joining(values: list[str]) -> None:
    assert split_values(",".join(values)) == tuple(values)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["signal"], "'signal' is not key=a,b,c"),
        (["=1"], "is not key=a,b,c"),
        (["n=1", "n=2"], "n is given twice; write its values in one word: n=a,b,c"),
        (["n=1,,2"], "has an empty value between its commas"),
        (["n=1,"], "has an empty value"),
    ],
)
def test_words_that_are_no_axes_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_axes(words)


def test_one_empty_value_is_a_value() -> None:
    assert read_axes(["data.text=", "n=''"]) == {"data.text": ("",), "n": ("''",)}


def test_seeds() -> None:
    assert read_seeds("3") == (3,)
    assert read_seeds("0, 1,2147483647") == (0, 1, 2**31 - 1)
    for text in ("", "a", "1,", "-1", "1.5", "2147483648", "\u0663", "0-3"):
        with pytest.raises(ValueError, match=r"is no seed; wanted numbers of 0 to 2147483647"):
            read_seeds(text)
    with pytest.raises(ValueError, match="a seed is given twice"):
        read_seeds("1,01")


def test_every_combination_with_every_seed_in_the_order_given(folder: Path) -> None:
    jobs = planted(folder, "signal=0.5,0.9", "n=7,8", seeds=(3, 1))
    assert [(job.overrides, job.seed) for job in jobs] == [
        ((f"signal={signal}", f"n={n}"), seed) for signal in ("0.5", "0.9") for n in (7, 8) for seed in (3, 1)
    ]
    assert [job.id for job in jobs] == [f"{i:04d}" for i in range(8)]
    assert {(job.study, job.phase, job.preset, job.out) for job in jobs} == {
        ("toy", "P1", "quick", str(folder / "runs"))
    }
    assert len({job.fingerprint for job in jobs}) == 8


def study_with_seeds(folder: Path, *seeds: int, corpus_seeds: tuple[int, ...] = ()) -> Study:
    study = toy(folder)
    first = replace(study.phases[0], seeds=seeds, corpus_seeds=corpus_seeds)
    return replace(study, phases=(first, *study.phases[1:]))


def test_without_seeds_those_that_run_takes(folder: Path) -> None:
    study = study_with_seeds(folder, 4, 5, corpus_seeds=(6,))

    def seeds(preset: str, **axes: tuple[str, ...]) -> list[int]:
        named = {key.replace("_", "."): values for key, values in axes.items()}
        return [job.seed for job in make_jobs(study, study.phases[0], preset, named, (), folder)]

    assert seeds("quick") == [4, 5]
    assert seeds("smoke") == [4]
    assert seeds("quick", data_text=("''", "x")) == [6, 6]


def test_the_same_words_name_the_same_folder_and_others_another(folder: Path) -> None:
    def name(*words: str, **wish) -> str:
        study = toy(folder)
        axes, seeds = read_axes(words), wish.get("seeds", (0,))
        jobs = make_jobs(study, study.phases[0], wish.get("preset", "quick"), axes, seeds, folder)
        return default_folder(folder, jobs).relative_to(folder).as_posix()

    same = name("n=1,2")
    assert same == name("n=1,2")
    assert same.startswith("sweeps/toy.P1-")
    assert len({same, name("n=1,3"), name("n=1,2", seeds=(1,)), name("n=1,2", preset="full")}) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["signla=1,2"], "did you mean signal?"),
        (["signal=0.5,0.6,3"], "signal=3.0: wanted 0 to 2"),
        (["n=1,many"], "n: "),
        (["data=1,2"], "data is a group"),
        (["signal=0.5,0.50"], "signal=0.5 and signal=0.50 are the same config"),
        (["n=" + ",".join(map(str, range(101))), "drift=" + ",".join(map(str, range(100)))], "10100 jobs; allowed"),
    ],
)
def test_what_a_job_could_not_have_is_refused_before_anything_is_written(
    folder: Path, words: list[str], said: str
) -> None:
    before = {folder / "presets.yaml"}
    with pytest.raises(ValueError, match=r".+") as refusal:
        planted(folder, *words)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert set(folder.iterdir()) == before


def test_declared_seeds_count_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "MOST_JOBS", 3)
    study = study_with_seeds(folder, 0, 1)
    assert len(make_jobs(study, study.phases[0], "smoke", {"n": ("1", "2", "3")}, (), folder)) == 3
    with pytest.raises(ValueError, match="this sweep would be 4 jobs; allowed: 3"):
        make_jobs(study, study.phases[0], "quick", {"n": ("1", "2")}, (), folder)


def test_the_phases_own_check_and_skip_are_asked(folder: Path) -> None:
    def check(config) -> None:
        if config.n == 8:
            raise ValueError("eight.txt is missing")

    study = toy(folder)
    phase = replace(study.phases[0], check=check, skip=lambda config: "it is nine" if config.n == 9 else "")
    with pytest.raises(ValueError, match=r"eight\.txt is missing"):
        make_jobs(study, phase, "quick", {"n": ("7", "8")}, (0,), folder)
    with pytest.raises(ValueError, match="P1 would be skipped: it is nine"):
        make_jobs(study, phase, "quick", {"n": ("7", "9")}, (0,), folder)


def test_a_phase_without_the_run_that_it_builds_on_is_refused(folder: Path) -> None:
    study = toy(folder)
    with pytest.raises(ValueError, match=r"toy\.P1 has no finished full run under .* for P2 to build on") as refused:
        make_jobs(study, study.phase("P2"), "full", {}, (0,), folder)
    assert str(refused.value).endswith(f"first: {program()} run toy.P1 --preset full --out {folder}")


def test_a_phase_builds_on_no_run_that_read_another_text(folder: Path) -> None:
    study, text = toy(folder), folder / "mine.txt"
    text.write_text("one\n")
    planted(folder, "data.text=mine.txt")
    run_planted(str(folder / "sweep" / JOBS), "0")

    def jobs() -> int:
        return len(make_jobs(study, study.phase("P2"), "quick", {"data.text": ("mine.txt",)}, (0,), folder / "runs"))

    assert jobs() == 1
    text.write_text("two\n")
    said = (
        r"P1 has no finished quick run under .* that read what data\.text=mine\.txt holds now for P2 to build on; first"
    )
    with pytest.raises(ValueError, match=said):
        jobs()
