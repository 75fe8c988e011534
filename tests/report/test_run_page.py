"""report.html: complete, self-contained, escaped, and written whatever is missing."""

from __future__ import annotations

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from planted_runs import ATTACK, GATE, OUTCOMES, PASSING, planted_run

from inscape.cli import main
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import fingerprint_of_gate
from inscape.core.rundir import RunDir
from inscape.report import collect, write_index, write_report

ADDRESS = re.compile(r"""(?:src|href|srcset|action|data|poster)\s*=\s*["']?([^"'\s>]+)|url\(([^)]*)\)|@import""", re.I)
VOID = {"meta", "br", "img", "link", "input", "hr"}


def page_of(run: RunDir) -> str:
    return write_report(run).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader sees, tags dropped and entities resolved."""
    seen: list[str] = []

    class Text(HTMLParser):
        def handle_data(self, data: str) -> None:
            seen.append(data)

    Text().feed(re.sub(r"(?s)<style>.*?</style>", "", page))
    return " ".join(" ".join(seen).split())


def unbalanced(page: str) -> list[str]:
    """Tags that are opened and not closed, or closed in the wrong order."""
    stack: list[str] = []
    wrong: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            if tag not in VOID:
                stack.append(tag)

        def handle_startendtag(self, tag: str, attrs: list) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            if not stack or stack.pop() != tag:
                wrong.append(tag)

    Tags().feed(page)
    return wrong + stack


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = page_of(planted_run(tmp_path))
    addresses = [a or b for a, b in ADDRESS.findall(page)]
    assert any(a.startswith("data:image/png;base64,") for a in addresses)
    assert [a for a in addresses if not a.startswith("data:")] == ["../../../../index.html"]
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_it_tells_the_whole_story(tmp_path: Path) -> None:
    page = page_of(planted_run(tmp_path))
    text = text_of(page)
    assert not unbalanced(page)
    for said in (
        "Seeing words",
        "Words have a picture.",
        "Do words have a picture?",
        "They may have none.",
        "look closer",
        "trained for 3 steps in 3 min",
        "at least 0.9",
        "0.95 [0.93, 0.97] over 300 scenes",
        "the plan's own line",
        "V may ignore its text",
        "chance stays chance",
        "words per minute",
        "git checkout c0ffee ./inscape run visual.P1 --preset quick --seed 0 --device cpu",
        "python 3.11.9, torch not installed",
        "steps: 10",
        "2 of 2 claims hold. All controls hold.",
    ):
        assert said in text, said
    assert 'role="alert"' not in page
    assert "missing or damaged" not in text


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_is_shown_in_words(tmp_path: Path, outcome: str) -> None:
    run = planted_run(tmp_path, metrics=OUTCOMES[outcome])
    assert run.read_json(run.VERDICT)["outcome"] == outcome
    page = page_of(run)
    assert f'class="badge {outcome} large"' in page
    assert ("What this miss means" in page) == (outcome in ("FAIL", "PARTIAL"))


def test_plan_and_calibrated_stand_apart_with_their_own_outcomes(tmp_path: Path) -> None:
    text = text_of(page_of(planted_run(tmp_path, metrics=OUTCOMES["FAIL"])))
    plan, calibrated, controls = (
        text.index(t) for t in ("The plan's criteria ✗", "Calibrated criteria ✓", "Controls ✓")
    )
    assert plan < calibrated < controls
    assert plan < text.index("the plan's own line") < calibrated
    assert calibrated < text.index("V may ignore its text") < controls < text.index("chance stays chance")


def test_what_was_pushed_changed_or_remedied_is_red_and_escaped(tmp_path: Path) -> None:
    run = planted_run(
        tmp_path, despite_gate=f"because {ATTACK}", overrides={"data.text": ATTACK, "lr": 0.1}, remedies=[1]
    )
    page = page_of(run)
    banner = page[page.index('role="alert"') : page.index("What was asked")]
    assert "because &lt;script&gt;" in banner
    assert "lr = 0.1" in banner
    assert "data.text =" not in banner, "a corpus is no change of the declared config"
    assert "On the corpus <code>data.text=&lt;script&gt;" in banner
    assert "look closer" in banner
    assert "look longer" not in banner
    assert "<script" not in page
    assert "--despite-gate 'because" in text_of(page)
    assert "lr=0.1" in text_of(page)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"despite_gate": "impatience"}, "The reason given: “impatience”"),
        ({"overrides": {"lr": 0.5}}, "lr = 0.5"),
        ({"remedies": [0]}, "look longer"),
    ],
)
def test_each_departure_alone_raises_the_banner(tmp_path: Path, env: dict, said: str) -> None:
    page = page_of(planted_run(tmp_path, **env))
    assert said in text_of(page[page.index('role="alert"') : page.index("What was asked")])


def test_a_run_on_a_corpus_of_the_users_own_is_a_declared_one(tmp_path: Path) -> None:
    words = {"corpus": ["data.seconds=5", "data.text=own.tsv"]}
    page = page_of(planted_run(tmp_path, overrides={"data.seconds": 5.0, "data.text": "own.tsv"}, **words))
    assert 'role="alert"' not in page
    assert "changed by hand" not in page
    assert "On the corpus data.seconds=5 , data.text=own.tsv , which has a ladder of its own" in text_of(page)
    assert "On the corpus" not in page_of(planted_run(tmp_path, corpus=[]))


@pytest.mark.parametrize("corpus", [None, 3, "data.text=x", {"a": 1}, [[1], None]])
def test_a_corpus_of_a_wrong_type_never_stops_the_report(tmp_path: Path, corpus: object) -> None:
    page = page_of(planted_run(tmp_path, corpus=corpus, overrides={"data.text": "own.tsv"}))
    assert not unbalanced(page)
    assert write_index(tmp_path).is_file()


@pytest.mark.parametrize("place", ["hypothesis", "question", "failure_means", "phase_name", "study_title"])
def test_all_words_are_escaped(tmp_path: Path, place: str) -> None:
    run = planted_run(tmp_path, words={place: ATTACK}, command=[ATTACK], git_commit=ATTACK, versions={ATTACK: ATTACK})
    run.append_log({"kind": "notice", "text": ATTACK})
    run.append_log({"kind": "eval", "step": 4, ATTACK: 1.0})
    (run.path / run.CONFIG).write_text(ATTACK)
    (run.figures / "captions.json").write_text(json.dumps({"a.png": f'">{ATTACK}', ATTACK: ATTACK}))
    page = page_of(run)
    assert "<script" not in page
    assert not unbalanced(page)


@pytest.mark.parametrize("name", [RunDir.CONFIG, RunDir.GATE, RunDir.ENV, RunDir.METRICS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    run = planted_run(tmp_path)
    (run.path / name).unlink()
    assert f"{name} is missing" in text_of(page_of(run))


@pytest.mark.parametrize("rubbish", [b"{bro", b"\xff\xfe", b"[]", b"null", b'"x"', b"{}"])
@pytest.mark.parametrize(
    "name",
    [RunDir.CONFIG, RunDir.GATE, RunDir.ENV, RunDir.METRICS, RunDir.VERDICT, RunDir.LOG, "figures/captions.json"],
)
def test_a_damaged_file_never_stops_the_report(tmp_path: Path, name: str, rubbish: bytes) -> None:
    run = planted_run(tmp_path)
    (run.path / name).write_bytes(rubbish + b"\n")
    page = page_of(run)
    assert not unbalanced(page)
    if rubbish == b"\xff\xfe":
        assert "damaged" in text_of(page)


@pytest.mark.parametrize(
    "key",
    ["about", "overrides", "remedies", "inputs", "versions", "command", "seed", "despite_gate", "corpus_contents"],
)
@pytest.mark.parametrize("value", [None, 3, "x", [1, "y"], {"z": [1]}])
def test_an_env_of_wrong_types_never_stops_the_report(tmp_path: Path, key: str, value: object) -> None:
    assert not unbalanced(page_of(planted_run(tmp_path, **{key: value})))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("metrics.json", r'"n": \d+', '"n": 1e999'),
        ("metrics.json", r'"value": [\d.]+', f'"value": {"9" * 400}'),
        ("gate.json", r'"at_least": [\d.]+', f'"at_least": {"9" * 400}'),
        ("gate.json", r'"metric": "[^"]*"', '"metric": 5'),
        ("gate.json", r'"metric": "[^"]*"', '"metric": null'),
        ("gate.json", r'"why": "[^"]*"', '"why": [1]'),
    ],
)
def test_numbers_and_names_that_are_none_never_stop_the_report(tmp_path: Path, file: str, old: str, new: str) -> None:
    run = planted_run(tmp_path)
    text = (run.path / file).read_text()
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    (run.path / file).write_text(changed)
    assert write_report(run).is_file()
    assert write_index(tmp_path).is_file()


def test_damaged_metrics_count_as_not_measured(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    run.write_json(run.METRICS, run.read_json(run.METRICS) | {"accuracy": {"value": 1}})
    text = text_of(page_of(run))
    assert "accuracy in metrics.json is damaged" in text
    assert "undecided: accuracy" in text
    assert "verdict.json says PASS" in text


def test_an_edited_verdict_is_not_believed(tmp_path: Path) -> None:
    run = planted_run(tmp_path, metrics=OUTCOMES["FAIL"])
    run.write_json(run.VERDICT, GATE.judge(PASSING).to_json())
    page = page_of(run)
    assert 'class="badge FAIL large"' in page
    assert "verdict.json says PASS" in text_of(page)


@pytest.mark.parametrize("verdict", [{}, [], {"outcome": "PASS"}])
def test_a_pass_that_its_verdict_does_not_confirm_is_unreadable(tmp_path: Path, verdict: object) -> None:
    run = planted_run(tmp_path)
    run.write_json(run.VERDICT, verdict)
    page = page_of(run)
    assert 'class="badge UNREADABLE large"' in page
    assert "but gate.json and metrics.json give PASS" in text_of(page)


def test_a_prettified_figure_is_named(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    run.write_json(run.METRICS, run.read_json(run.METRICS) | {"accuracy": exact(1.0, 300, "scenes").to_json()})
    page = page_of(run)
    assert 'class="badge UNREADABLE large"' in page
    assert "verdict.json says something else, but gate.json and metrics.json give PASS" in text_of(page)


def test_a_gate_that_was_edited_since_the_run_began_judges_nothing(tmp_path: Path) -> None:
    run = planted_run(tmp_path, gate_fingerprint=fingerprint_of_gate(GATE.to_json()))
    assert 'class="badge PASS large"' in page_of(run)
    run.write_json(run.GATE, GATE.to_json()[:1])
    page = page_of(run)
    assert 'class="badge UNREADABLE large"' in page
    assert "gate.json was edited since the run began" in text_of(page)


def test_a_copy_elsewhere_has_a_report_and_no_way_to_an_index(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "runs", study="a-study-that-is-gone")
    assert "All runs" in text_of(page_of(run))
    copy = tmp_path / "one/two/three/four"
    shutil.copytree(run.path, copy)
    (copy / run.REPORT).unlink()
    assert main(["report", str(copy)]) == 0
    assert "All runs" not in text_of((copy / run.REPORT).read_text(encoding="utf-8"))
    assert not list(tmp_path.rglob("index.html"))


def test_an_unfinished_run_has_missed_nothing(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    (run.path / run.METRICS).unlink()
    (run.path / run.VERDICT).unlink()
    page = page_of(run)
    assert 'class="badge UNFINISHED large"' in page
    assert "badge INVALID" not in page
    assert "badge INCONCLUSIVE" not in page


def test_pictures_stand_in_the_order_of_their_captions(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    (run.figures / "captions.json").write_text(json.dumps({"b.png": "second", "gone.png": "lost"}))
    text = text_of(page_of(run))
    assert text.index("b.png second") < text.rindex("a.png")
    assert "figures/gone.png has a caption but is missing" in text


def test_hashes_and_inputs_are_found(tmp_path: Path) -> None:
    before = planted_run(tmp_path, phase="P0")
    write_report(before)
    run = planted_run(tmp_path, inputs={"P0": str(before.path.resolve())}, tokenizer={"sha256": "abc123"})
    data = {"hash": "def456", "n": 3, "corpus": "scenes", "words": "0123456789abcdef", "held": f"sha256:{'ab' * 32}"}
    run.write_json("pack.json", {"data": data | {"size": "small:0123", "address": "https://0123456789abcdef"}})
    page = page_of(run)
    text = text_of(page)
    assert "tokenizer: sha256 abc123" in text
    assert "pack: data: hash def456" in text
    assert "pack: data: words 0123456789abcdef" in text
    assert f"pack: data: held sha256:{'ab' * 32}" in text
    for other in ("corpus", "size", "address"):
        assert f"pack: data: {other}" not in text
    assert f'href="../../../P0/quick/{before.path.name}/report.html"' in page


@pytest.mark.parametrize("contents", [f"sha256:{'0a' * 32}", f"names-and-sizes:{'0b' * 32}"])
def test_what_the_files_of_a_corpus_held_is_named(tmp_path: Path, contents: str) -> None:
    own = {"corpus": ["data.text=x.tsv"], "overrides": {"data.text": "x.tsv"}}
    text = text_of(page_of(planted_run(tmp_path, corpus_contents={"data.text=x.tsv": contents}, **own)))
    assert f"Contents of data.text=x.tsv {contents}" in text
    assert text.count(contents) == 1


def told_commands(page: str) -> list[str]:
    return html.unescape(re.search(r"reproduce it</h2>\s*<pre>(.*?)</pre>", page, re.S)[1]).splitlines()  # type: ignore[index]


def test_the_commands_of_all_that_a_run_builds_on_are_told_earliest_first(tmp_path: Path) -> None:
    typed = ["inscape", "run", "visual", "--out", "my runs"]
    first = planted_run(tmp_path, phase="P0", overrides={"lr": 0.5}, command=typed, git_dirty=True)
    other = planted_run(tmp_path, phase="P1", seed=3, inputs={"P0": str(first.path)}, git_commit="deadbeef")
    both = {"P1": str(other.path), "P0": str(first.path)}
    run = planted_run(tmp_path, phase="P2", inputs=both, command=[*typed[:3], "--out=./runs"])
    page = page_of(run)
    assert told_commands(page) == [
        "git checkout c0ffee",
        "./inscape run visual.P0 --preset quick --seed 0 --device cpu --out 'my runs' lr=0.5",
        "git checkout deadbeef",
        "./inscape run visual.P1 --preset quick --seed 3 --device cpu",
        "git checkout c0ffee",
        "./inscape run visual.P2 --preset quick --seed 0 --device cpu",
    ]
    assert "not committed" in text_of(page), "of what it builds on"


def test_what_a_run_builds_on_is_found_where_all_of_them_were_moved_to(tmp_path: Path) -> None:
    first = planted_run(tmp_path / "old", phase="P0")
    planted_run(tmp_path / "old", inputs={"P0": str(first.path)})
    (tmp_path / "old").rename(tmp_path / "new")
    (moved,) = (tmp_path / "new/visual/P1/quick").iterdir()
    assert "./inscape run visual.P0" in told_commands(page_of(RunDir(moved)))[1]


def test_what_collected_evidence_builds_on_is_found_among_the_evidence(tmp_path: Path) -> None:
    first = planted_run(tmp_path / "runs", phase="P0", fingerprint="0123abcd")
    second = planted_run(tmp_path / "runs", inputs={"P0": str(first.path)})
    collect(first, tmp_path / "results")
    kept = collect(second, tmp_path / "results")
    shutil.rmtree(tmp_path / "runs")
    assert "./inscape run visual.P0" in told_commands(page_of(RunDir(kept)))[1]


def test_a_run_of_a_sweep_is_run_again_where_it_was_kept(tmp_path: Path) -> None:
    worker = ["python -m inscape.cluster", "jobs.jsonl", "3"]
    for out, words in (("my runs", " --out 'my runs'"), ("runs", "")):
        run = planted_run(tmp_path, phase="P0", out=out, command=worker)
        assert told_commands(page_of(run))[1] == f"./inscape run visual.P0 --preset quick --seed 0 --device cpu{words}"


def test_what_a_run_builds_on_and_is_not_here_is_said_to_be_missing(tmp_path: Path) -> None:
    gone = "/elsewhere/visual/P0/quick/20260101T000000-aa-s0"
    run = planted_run(tmp_path, inputs={"P0": gone})
    assert told_commands(page_of(run)) == [
        "# first what visual/P0/quick/20260101T000000-aa-s0 (P0) was run with: it is not here",
        "git checkout c0ffee",
        "./inscape run visual.P1 --preset quick --seed 0 --device cpu",
    ]
    run.write_json(run.ENV, run.read_json(run.ENV) | {"inputs": {"P1": str(run.path)}})
    assert told_commands(page_of(run))[1:] == ["./inscape run visual.P1 --preset quick --seed 0 --device cpu"]


def test_a_run_on_a_corpus_is_run_again_in_its_words(tmp_path: Path) -> None:
    own = {"corpus": ["data.seconds=5", "data.text=a b.tsv"], "overrides": {"data.text": "a b.tsv", "lr": 1}}
    (_, command) = told_commands(page_of(planted_run(tmp_path, **own)))
    assert command.endswith(" --device cpu data.seconds=5 'data.text=a b.tsv' lr=1")


def test_how_the_program_was_called_stands_as_it_was_typed(tmp_path: Path) -> None:
    command = ["python .\\inscape", "run", "visual.P1", "note=a b"]
    text = text_of(page_of(planted_run(tmp_path, command=command)))
    assert "As it was typed python .\\inscape run visual.P1 'note=a b'" in text


def test_a_run_named_by_a_dot_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planted_run(tmp_path, seed=7)
    before = page_of(run)
    monkeypatch.chdir(run.path)
    assert page_of(RunDir(Path())) == before


def train_in(run: RunDir, part: str, *losses: float, seconds: float = 60.0) -> RunDir:
    """A training of the run in a folder of its own, with a log, as `part_of` makes it."""
    inner = RunDir(run.path / part)
    inner.path.mkdir(parents=True, exist_ok=True)
    for step, loss in enumerate(losses, 1):
        inner.append_log({"kind": "train", "step": step, "total": 9, "loss": loss, "seconds": seconds * step})
    return inner


def test_every_training_in_the_run_is_drawn_under_its_name(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    (run.path / run.LOG).unlink()
    for part in ("arms/b/picture", "arms/a", "k10", "k9"):
        train_in(run, part, 0.75, 0.25).append_log({"kind": "notice", "text": "halved"})
    train_in(run, "checkpoints/step_1", 7.0)
    page = page_of(run)
    text = text_of(page)
    assert not unbalanced(page)
    assert "It trained for 8 steps in 4 trainings, 8 min together." in text
    names = [text.index(part) for part in ("arms/a Losses", "arms/b/picture Losses", "k9 Losses", "k10 Losses")]
    assert names == sorted(names)
    assert page.count("from step 1 to 2, last value 0.25") == 4
    assert text.count("halved") == 4
    assert "arms/a: halved" in text
    assert "total" not in text[names[0] :], "how many steps there will be is no curve"


def test_the_runs_own_training_is_drawn_before_those_in_it(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    train_in(run, "prior", 0.75, 0.25)
    text = text_of(page_of(run))
    assert "It trained for 5 steps in 2 trainings, 5 min together." in text
    assert text.index("each 3 points") < text.index("prior Losses and the like, each 2 points")


@pytest.mark.parametrize("rubbish", [b"{bro\n", b"\xff\xfe\n"])
def test_a_damaged_log_of_one_training_harms_no_other(tmp_path: Path, rubbish: bytes) -> None:
    run = planted_run(tmp_path)
    (train_in(run, "k1", 0.5).path / run.LOG).write_bytes(rubbish)
    train_in(run, "k2", 0.75, 0.25)
    (run.path / "k3").mkdir()
    (run.path / "k3" / run.LOG).symlink_to(tmp_path / "nowhere")
    text = text_of(page_of(run))
    assert "k1/log.jsonl is damaged; its curves are left out" in text
    assert "k2 Losses" in text
    assert "It trained for 5 steps in 2 trainings" in text


def test_smoke_and_uncommitted_code_are_said(tmp_path: Path) -> None:
    text = text_of(page_of(planted_run(tmp_path, preset="smoke", git_dirty=True)))
    assert "A smoke run." in text
    assert "not committed" in text


def test_what_utf_8_cannot_hold_is_written_as_an_escape(tmp_path: Path) -> None:
    run = planted_run(tmp_path, despite_gate="na\udcffve", command=["inscape", "run", "--out", "r\udcff"])
    (run.figures / "captions.json").write_text('{"a.png": "half \\ud800"}')
    text = text_of(page_of(run))
    assert all(words in text for words in (r"na\udcffve", r"'r\udcff'", r"half \ud800"))
    assert r"na\udcffve" in text_of(write_index(tmp_path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("line", [{"step": 10**400}, {"step": 9, "seconds": 10**400}, {"step": 9, "loss": 10**400}])
def test_numbers_that_no_float_holds_never_stop_the_report(tmp_path: Path, line: dict) -> None:
    run = planted_run(tmp_path)
    run.append_log({"kind": "train", **line})
    assert "It trained for " in text_of(page_of(run))


def test_numbers_that_are_none_do_not_break_the_curves(tmp_path: Path) -> None:
    run = planted_run(tmp_path, metrics={"accuracy": Estimate(float("nan"), 0.0, 1.0, 0, "scenes")})
    run.append_log({"kind": "train", "step": 4, "loss": float("nan"), "terms": {"tv": float("inf")}, "rate": None})
    page = page_of(run)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower().replace("explanation", "")
    assert "at least 0.9 not measured" in text_of(page)
