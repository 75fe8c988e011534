"""One run in parts: the same story as its report, and an answer whatever its files hold."""

from __future__ import annotations

import html
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_runs import OUTCOMES, PIXEL, planted_run

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir
from inscape.explore.run_detail import describe_run
from inscape.explore.run_files import Declined
from inscape.explore.run_log import plain
from inscape.explore.run_summary import READ
from inscape.report import write_report

RUBBISH = (b"", b"{bro", b"\xff\xfe", b"[]", b"null", b'"x"', b"{}", b"[" * 900 + b"]" * 900, b"9" * 5000, b"\x00" * 9)


def described(run: RunDir) -> dict[str, Any]:
    answer = describe_run(run.path.parents[3], run.path.parts[-4:])
    json.dumps(plain(answer), allow_nan=False)
    return answer


def test_it_tells_what_the_report_tells(tmp_path: Path) -> None:
    run = planted_run(
        tmp_path, despite_gate="out of impatience", overrides={"lr": 0.1, "data.text": "a b"}, remedies=[1]
    )
    told = described(run)
    page = html.unescape(write_report(run).read_text(encoding="utf-8"))
    findings = [f[key] for f in told["findings"] for key in ("words", "bound", "why")]
    shown = [told[key] for key in ("title", "study_title", "hypothesis", "question", "done", "sentence", "command")]
    for said in shown + findings + told["remedies"] + [told["failure_means"], told["explanation"], told["pushed"]]:
        assert said
        assert said in page, said
    assert told["remedies_applied"] == ["look closer"]
    assert told["problems"] == []
    assert told["config"] == "steps: 10\n"
    assert told["versions"] == {"python": "3.11.9", "torch": None}
    assert (told["commit"], told["uncommitted_changes"]) == ("c0ffee", False)


def test_findings_hold_the_figures_as_numbers(tmp_path: Path) -> None:
    told = described(planted_run(tmp_path, metrics=OUTCOMES["FAIL"]))
    assert told["outcome"] == "FAIL"
    accuracy, dependence, control = told["findings"]
    assert accuracy["criterion"] == "accuracy >= 0.9"
    assert accuracy["bound"] == "at least 0.9"
    assert accuracy["measured"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 300, "unit": "scenes"}
    assert (accuracy["outcome"], accuracy["source"], accuracy["role"]) == ("FAIL", "plan", "claim")
    assert (dependence["outcome"], dependence["source"]) == ("PASS", "calibrated")
    assert control["role"] == "control"
    strip = accuracy["strip"]
    assert strip["value"] < strip["bound"] == strip["wanted_from"]
    assert strip["wanted_to"] == 100.0
    assert [other["metric"] for other in told["others"]] == ["words_per_minute"]
    assert told["others"][0]["measured"]["value"] == 6500.0


def test_what_was_not_measured_is_null_and_has_no_strip(tmp_path: Path) -> None:
    told = described(planted_run(tmp_path, metrics={"accuracy": Estimate(math.nan, 0.0, 1.0, 0, "scenes")}))
    assert told["findings"][0]["measured"] is None
    assert "strip" not in told["findings"][0]
    assert told["findings"][0]["outcome"] == "INCONCLUSIVE"


def test_an_unfinished_run_has_missed_nothing(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    (run.path / run.METRICS).unlink()
    (run.path / run.VERDICT).unlink()
    told = described(run)
    assert told["outcome"] == "UNFINISHED"
    assert {f["outcome"] for f in told["findings"]} == {"UNFINISHED"}
    assert told["sentence"] == ""
    assert told["running"]


def test_figures_stand_in_the_order_of_their_captions(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    (run.figures / "50% of #1?.png").write_bytes(PIXEL)
    (run.figures / "captions.json").write_text(json.dumps({"b.png": "second", "gone.png": "lost"}))
    told = described(run)
    at = "/runs/" + "/".join(run.path.parts[-4:]) + "/figures/"
    assert told["figures"] == [
        {"name": "b.png", "caption": "second", "url": at + "b.png"},
        {"name": "50% of #1?.png", "caption": "", "url": at + "50%25%20of%20%231%3F.png"},
        {"name": "a.png", "caption": "", "url": at + "a.png"},
    ]
    assert told["problems"] == ["figures/gone.png has a caption but is missing"]


def test_the_report_is_linked_where_there_is_one(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    assert described(run)["report"] is None
    write_report(run)
    assert described(run)["report"] == "/runs/" + "/".join(run.path.parts[-4:]) + "/report.html"


def test_inputs_are_linked_where_they_lie_here(tmp_path: Path) -> None:
    before = planted_run(tmp_path, phase="P0")
    name = "/".join(before.path.parts[-4:])
    elsewhere = r"C:\ada\runs\visual\P0\quick\20260101T000000-aa-s0"
    told = described(planted_run(tmp_path, inputs={"P0": f"/moved/runs/{name}", "P9": elsewhere}))
    assert told["inputs"] == [
        {"phase": "P0", "name": name, "id": name},
        {"phase": "P9", "name": "visual/P0/quick/20260101T000000-aa-s0", "id": None},
    ]


def test_the_commands_of_what_it_builds_on_are_told_where_that_lies_here(tmp_path: Path) -> None:
    first = planted_run(tmp_path / "runs", phase="P0")
    secret = planted_run(tmp_path / "elsewhere", phase="P9", overrides={"lr": "secret"})
    run = planted_run(tmp_path / "runs", inputs={"P0": str(first.path), "P9": str(secret.path)})
    told = described(run)["command"].splitlines()
    assert [line.split(" --")[0] for line in told] == [
        "git checkout c0ffee",
        "./inscape run visual.P0",
        f"# first what {'/'.join(secret.path.parts[-4:])} (P9) was run with: it is not here",
        "./inscape run visual.P1",
    ]
    (first.path / first.ENV).unlink()
    (first.path / first.ENV).symlink_to(secret.path / secret.ENV)
    assert "secret" not in described(run)["command"]


def test_what_it_builds_on_is_found_among_collected_evidence(tmp_path: Path) -> None:
    first = planted_run(tmp_path / "runs", phase="P0")
    run = planted_run(tmp_path / "runs", inputs={"P0": str(first.path)})
    env = first.read_json(first.ENV)
    began, fingerprint, seed = first.path.name.split("-")
    first.write_json(first.ENV, env | {"started": began, "fingerprint": fingerprint, "seed": int(seed[1:])})
    collected = first.path.with_name("seed-0")
    first.path.rename(collected)
    told = described(run)
    assert told["inputs"] == [
        {"phase": "P0", "name": "/".join(first.path.parts[-4:]), "id": "/".join(collected.parts[-4:])}
    ]
    assert "it is not here" not in told["command"]
    assert "./inscape run visual.P0" in told["command"]


@pytest.mark.parametrize("place", ["/a/../visual/P0/20260101T000000-aa-s0", "/**/*/P0/x/20260101T000000-aa-s0", "."])
def test_a_place_that_no_run_has_finds_nothing(tmp_path: Path, place: str) -> None:
    planted_run(tmp_path / "visual", phase="P0")
    told = described(planted_run(tmp_path / "runs", inputs={"P0": place}))
    assert [each["id"] for each in told["inputs"]] == [None]


def test_curves_notices_and_the_time_taken(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    run.append_log({"kind": "notice", "text": "the rate was halved"})
    with (run.path / run.LOG).open("ab") as file:
        file.write(b"{rubbish}\n")
    told = described(run)
    (training,) = told["trainings"]
    assert training["part"] == ""
    assert training["train"]["loss"] == [(1.0, 1.0), (2.0, 0.5), (3.0, 1 / 3)]
    assert training["eval"] == {"alpha": [(3.0, 2.0)]}
    assert told["notices"] == ["the rate was halved"]
    assert told["seconds"] == 180.0
    assert told["problems"] == ["1 of 6 lines of log.jsonl are damaged and were left out"]


def test_every_training_in_the_run_is_told(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    (run.path / run.LOG).unlink()
    for part in ("k2", "arms/wide/picture"):
        inner = RunDir(run.path / part)
        inner.path.mkdir(parents=True)
        inner.append_log({"kind": "train", "step": 5, "total": 9, "loss": 0.5, "seconds": 30.0})
        inner.append_log({"kind": "notice", "text": "halved"})
    with (run.path / "k2" / run.LOG).open("ab") as file:
        file.write(b"{rubbish}\n")
    told = described(run)
    assert told["trainings"] == [
        {"part": part, "train": {"loss": [(5.0, 0.5)]}, "eval": {}} for part in ("arms/wide/picture", "k2")
    ]
    assert told["done"] == "It trained for 10 steps in 2 trainings, 60 s together."
    assert told["notices"] == ["arms/wide/picture: halved", "k2: halved"]
    assert told["seconds"] == 60.0
    assert told["problems"] == ["1 of 3 lines of k2/log.jsonl are damaged and were left out"]


def test_a_log_inside_the_run_that_leads_out_is_not_read(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "runs")
    (tmp_path / "secret").write_text('{"kind": "notice", "text": "password"}\n')
    (run.path / "k2").mkdir()
    (run.path / "k2" / run.LOG).symlink_to(tmp_path / "secret")
    with pytest.raises(Declined, match=r"log\.jsonl is reached by a link that leads out of the runs folder"):
        described(run)
    (run.path / "k2" / run.LOG).unlink()
    (tmp_path / "outside").mkdir()
    (tmp_path / "secret").rename(tmp_path / "outside" / run.LOG)
    (run.path / "k3").symlink_to(tmp_path / "outside")
    assert described(run)["notices"] == []


@pytest.mark.parametrize("name", [*READ, "figures/captions.json"])
def test_a_damaged_file_is_named_and_never_stops_it(tmp_path: Path, name: str) -> None:
    run = planted_run(tmp_path)
    kept = (run.path / name).read_bytes()
    for rubbish in RUBBISH:
        (run.path / name).write_bytes(rubbish + b"\n")
        try:
            told = described(run)
        except Declined as declined:
            assert name in (RunDir.ENV, RunDir.GATE, RunDir.METRICS, RunDir.VERDICT)
            assert str(tmp_path) not in str(declined)  # noqa: PT017
        else:
            damaged = rubbish not in (b"", b"{}", b"null", b"[]") and name != RunDir.CONFIG
            assert not damaged or any(Path(name).name in problem for problem in told["problems"]), rubbish[:9]
    (run.path / name).write_bytes(kept)
    assert described(run)["problems"] == []


@pytest.mark.parametrize("name", READ)
def test_a_missing_file_never_stops_it(tmp_path: Path, name: str) -> None:
    run = planted_run(tmp_path)
    (run.path / name).unlink()
    if name == RunDir.ENV:
        with pytest.raises(Declined, match=r"env\.json is missing"):
            described(run)
    else:
        wanted = {RunDir.VERDICT: "metrics", RunDir.LOG: "log"}.get(name, name)
        problems = described(run)["problems"]
        assert problems == [] if name in (RunDir.VERDICT, RunDir.LOG) else [f"{wanted} is missing"]


def test_a_link_that_leads_out_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"secret": "password"}')
    for name in READ:
        run = planted_run(tmp_path / "runs")
        (run.path / name).unlink()
        (run.path / name).symlink_to(secret)
        with pytest.raises(Declined, match="leads out of the runs folder") as declined:
            described(run)
        assert str(tmp_path) not in str(declined.value)
    run = planted_run(tmp_path / "runs")
    shutil.rmtree(run.figures)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "captions.json").write_text('{"secret.png": "password"}')
    (tmp_path / "figures" / "secret.png").write_bytes(PIXEL)
    (run.path / "figures").symlink_to(tmp_path / "figures")
    told = described(run)
    assert told["figures"] == []
    assert told["problems"] == ["figures/captions.json is damaged; the pictures stand without captions"]
    assert "secret" not in json.dumps(told)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.just("\ud800"),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=6,
)
KEYS = ("about", "overrides", "remedies", "inputs", "versions", "command", "seed", "despite_gate", "device", "started")
WORDS = ("phases", "seeds", "remedies", "question", "hypothesis", "phase_name", "study_title", "failure_means")
FIELDS = ("metric", "at_least", "at_most", "role", "source", "why", "partial")


@pytest.mark.parametrize("key", ["question", "despite_gate", "overrides", "seed", "versions"])
def test_lists_within_lists_within_lists_never_stop_it(tmp_path: Path, key: str) -> None:
    run = planted_run(tmp_path, words={"question": "HERE"} if key == "question" else None)
    env = json.loads((run.path / run.ENV).read_text()) | ({} if key == "question" else {key: "HERE"})
    for depth in range(20, 1020, 20):
        nested = "[" * depth + "]" * depth
        (run.path / run.ENV).write_text(json.dumps(env).replace('"HERE"', f'{{"a": {nested}}}'))
        try:
            described(run)
        except Declined as declined:
            assert "env.json" in str(declined) or "lists within lists" in str(declined)  # noqa: PT017


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return planted_run(tmp_path_factory.mktemp("victim"))


@given(st.data())
def test_files_of_wrong_contents_never_stop_it(victim: RunDir, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([RunDir.ENV, RunDir.GATE, RunDir.METRICS, RunDir.VERDICT]))
    path = victim.path / name
    before = path.read_text()
    content = json.loads(before)
    if name == RunDir.ENV:
        content[data.draw(st.sampled_from(KEYS))] = data.draw(JSON)
        if isinstance(content["about"], dict):
            content["about"][data.draw(st.sampled_from(WORDS))] = data.draw(JSON)
    elif name == RunDir.GATE:
        content[0][data.draw(st.sampled_from(FIELDS))] = data.draw(JSON)
    elif name == RunDir.METRICS:
        content["accuracy"] = data.draw(JSON | st.fixed_dictionaries(dict.fromkeys(content["accuracy"], JSON)))
    else:
        content["outcome"] = data.draw(JSON)
    path.write_text(json.dumps(content))
    try:
        described(victim)
    except Declined as declined:
        assert str(victim.path.parent) not in str(declined)  # noqa: PT017
    finally:
        path.write_text(before)
