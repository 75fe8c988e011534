"""The runs over the wire: complete, in order, strict JSON, fast, and never a fault or a path of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_runs import ATTACK, OUTCOMES, PIXEL, planted_across_seeds, planted_run
from planted_study import PRESETS, make_world
from starlette.applications import Starlette
from starlette.testclient import TestClient

from inscape.core.rundir import RunDir
from inscape.explore import run_summary
from inscape.explore.run_log import log_page
from inscape.explore.runs import Known, list_runs, log_of_run, run_routes
from inscape.report import write_index, write_report

SECRET = "a secret that no page may show"


def client_of(root: Path) -> TestClient:
    return TestClient(Starlette(routes=run_routes(root)), raise_server_exceptions=True)


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def get(root: Path, address: str, status: int = 200) -> Any:
    answer = client_of(root).get(address)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    found = strict(answer.text)
    if status != 200:
        assert "\n" not in found["error"]
        assert str(root) not in answer.text
    return found


def id_of(run: RunDir) -> str:
    return "/".join(run.path.parts[-4:])


def at(run: RunDir, day: int) -> RunDir:
    """The same run, as if started on another day."""
    moved = run.path.with_name(f"202601{day:02d}T000000{run.path.name[15:]}")
    run.path.rename(moved)
    return RunDir(moved)


def presets_of(root: Path, phase: str = "P1") -> dict[str, dict[str, Any]]:
    (study,) = list_runs(root)["studies"]
    (found,) = (p for p in study["phases"] if p["code"] == phase)
    return {p["preset"]: p for p in found["presets"]}


# --- the list -----------------------------------------------------------------------------------------------------


def test_no_runs_are_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for root in (tmp_path, tmp_path / "none", tmp_path / "file"):
        assert get(root, "/api/runs") == {"studies": [], "unreadable": []}


def test_runs_stand_under_study_phase_and_preset(tmp_path: Path) -> None:
    for study, phase, preset in (
        ("visual", "P1", "quick"),
        ("visual", "P1", "smoke"),
        ("visual", "P1", "full"),
        ("visual", "P10", "small"),
        ("audio-structure", "T1", "quick"),
    ):
        words = {"study_title": f"About {study}", "phase_name": f"name of {phase}", "question": f"{phase}?"}
        planted_run(tmp_path, study=study, phase=phase, preset=preset, words=words)
    audio, visual = get(tmp_path, "/api/runs")["studies"]
    assert (audio["name"], audio["title"], audio["hypothesis"]) == (
        "audio-structure",
        "About audio-structure",
        "Words have a picture.",
    )
    assert [p["code"] for p in visual["phases"]] == ["P0", "P1", "P2", "P10"]
    unrun, run, *_ = visual["phases"]
    assert (unrun["name"], unrun["presets"]) == ("Corpus", [])
    assert (run["name"], run["question"]) == ("name of P1", "P1?")
    assert [p["preset"] for p in run["presets"]] == ["full", "quick", "smoke"]


def test_a_run_is_told_in_a_line(tmp_path: Path) -> None:
    run = at(planted_run(tmp_path, seed=3, metrics=OUTCOMES["PARTIAL"], despite_gate="impatience"), 7)
    (found,) = presets_of(tmp_path)["quick"]["runs"]
    assert found == {
        "id": id_of(run),
        "seed": 3,
        "outcome": "PARTIAL",
        "plan": "PASS",
        "calibrated": "PARTIAL",
        "started": "2026-01-07T00:00:00+00:00",
        "seconds": 180.0,
        "finished": True,
        "running": False,
        "declared": False,
        "corpus": [],
        "pushed": "impatience",
        "problems": [],
    }


def test_the_newest_run_comes_first(tmp_path: Path) -> None:
    runs = [at(planted_run(tmp_path, seed=seed), day) for seed, day in ((0, 2), (1, 9), (2, 5))]
    found = [run["id"] for run in presets_of(tmp_path)["quick"]["runs"]]
    assert found == [id_of(runs[1]), id_of(runs[2]), id_of(runs[0])]


def test_a_run_that_logs_is_running(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    (run.path / run.METRICS).unlink()
    (run.path / run.VERDICT).unlink()
    known: Known = {}

    def told() -> tuple[str, bool]:
        found = list_runs(tmp_path, known)["studies"][0]["phases"][1]["presets"][0]["runs"][0]
        return found["outcome"], found["running"]

    assert told() == ("UNFINISHED", True)
    old = time.time() - 60
    os.utime(run.path / run.LOG, (old, old))
    assert told() == ("UNFINISHED", False)


def test_a_preset_stands_as_its_worst_seed(tmp_path: Path) -> None:
    seeds = {"seeds": [0, 1]}

    def standing() -> str:
        return presets_of(tmp_path)["quick"]["standing"]

    at(planted_run(tmp_path, seed=0, metrics=OUTCOMES["INVALID"], words=seeds, despite_gate="impatience"), 6)
    assert standing() is None, "no run that counts"
    at(planted_run(tmp_path, seed=0, metrics=OUTCOMES["FAIL"], words=seeds), 1)
    assert standing() == "FAIL"
    at(planted_run(tmp_path, seed=0, words=seeds), 2)
    assert standing() == "UNFINISHED", "seed 1 is declared and missing"
    at(planted_run(tmp_path, seed=1, words=seeds), 3)
    assert standing() == "PASS"
    at(planted_run(tmp_path, seed=1, metrics=OUTCOMES["INVALID"], words=seeds, overrides={"lr": 1}), 4)
    assert standing() == "PASS"
    at(planted_run(tmp_path, seed=1, metrics=OUTCOMES["INCONCLUSIVE"], words=seeds), 5)
    assert standing() == "INCONCLUSIVE"


def test_each_corpus_has_a_ladder_of_its_own(tmp_path: Path) -> None:
    own = {"corpus": ["data.text=own.tsv"], "overrides": {"data.text": "own.tsv"}}
    at(planted_run(tmp_path, metrics=OUTCOMES["FAIL"], **own), 1)
    run = at(planted_run(tmp_path, **own), 2)
    at(planted_run(tmp_path, metrics=OUTCOMES["FAIL"], corpus=own["corpus"], overrides={"data.text": "x", "lr": 1}), 3)
    at(planted_run(tmp_path, metrics=OUTCOMES["INVALID"]), 4)
    planted_across_seeds(tmp_path, 0.5)  # of the runs on the declared corpus
    (study,) = list_runs(tmp_path)["studies"]
    ladders = {tuple(p["corpus"]): p for p in study["phases"][1]["presets"]}
    assert list(ladders) == [(), ("data.text=own.tsv",)]
    declared, mine = ladders.values()
    assert (declared["standing"], declared["across_seeds"], len(declared["runs"])) == ("INVALID", "FAIL", 1)
    assert (mine["standing"], mine["across_seeds"], len(mine["runs"])) == ("PASS", None, 3)
    assert [r["declared"] for r in mine["runs"]] == [False, True, True]
    told = get(tmp_path, f"/api/runs/{id_of(run)}")
    assert (told["corpus"], told["overrides"], told["declared"]) == (["data.text=own.tsv"], {}, True)


def test_seeds_under_different_configs_do_not_pass(tmp_path: Path) -> None:
    seeds = {"seeds": [0, 1]}
    planted_run(tmp_path, seed=0, words=seeds, fingerprint="aaaaaaaa")
    planted_run(tmp_path, seed=1, words=seeds, fingerprint="bbbbbbbb")
    assert presets_of(tmp_path)["quick"]["standing"] == "UNFINISHED"
    planted_run(tmp_path, seed=0, words=seeds, fingerprint="bbbbbbbb")
    assert presets_of(tmp_path)["quick"]["standing"] == "PASS"
    contents = {"data.text=x": "sha256:0a"}
    planted_run(tmp_path, seed=0, words=seeds, fingerprint="bbbbbbbb", corpus_contents=contents)
    assert presets_of(tmp_path)["quick"]["standing"] == "UNFINISHED"


def test_the_gate_across_seeds_counts(tmp_path: Path) -> None:
    planted_run(tmp_path)
    for spread, outcome in ((0.01, "PASS"), (0.5, "FAIL")):
        planted_across_seeds(tmp_path, spread)
        found = presets_of(tmp_path)["quick"]
        assert (found["standing"], found["across_seeds"]) == (outcome, outcome)
    planted_across_seeds(tmp_path, 0.01, planted_run(tmp_path / "elsewhere"), fingerprint="of another config")
    assert presets_of(tmp_path)["quick"]["standing"] == "UNREADABLE", "it is of other runs than these"
    for rubbish in ("{", "[]", '{"findings": 3}', '{"outcome": "PASS", "seeds": [], "findings": [{"at_least": 1}]}'):
        (tmp_path / "visual" / "P1" / "quick" / "across_seeds.json").write_text(rubbish)
        assert presets_of(tmp_path)["quick"]["standing"] == "UNREADABLE"


def test_folders_that_are_no_runs_are_named(tmp_path: Path) -> None:
    planted_run(tmp_path / "runs")
    broken = planted_run(tmp_path / "runs", phase="P0")
    (broken.path / RunDir.ENV).write_text("{")
    linked = planted_run(tmp_path / "elsewhere", phase="P2")
    (tmp_path / "runs" / "visual" / "P2").mkdir()
    (tmp_path / "runs" / "visual" / "P2" / "quick").symlink_to(linked.path.parent)
    strange = planted_run(tmp_path / "runs", phase="P5")
    strange.path.rename(strange.path.with_name("a\nb\\c"))
    (tmp_path / "runs" / ".git" / "a" / "b" / "c").mkdir(parents=True)
    found = get(tmp_path / "runs", "/api/runs")
    assert [p["code"] for p in found["studies"][0]["phases"] if p["presets"]] == ["P1"]
    problems = {entry["id"]: entry["problem"] for entry in found["unreadable"]}
    assert problems.keys() == {id_of(broken), id_of(linked), "visual/P5/quick/a?b\\c"}
    assert "env.json is damaged" in problems[id_of(broken)]
    assert "leads out of the runs folder" in problems[id_of(linked)]
    assert "characters" in problems["visual/P5/quick/a?b\\c"]


def test_real_runs_are_listed(tmp_path: Path) -> None:
    (tmp_path / "presets.yaml").write_text(PRESETS)
    world = make_world(tmp_path, seeds=(0, 1))
    runs = world.run("P1", "P2", preset="full")
    (study,) = list_runs(world.root)["studies"]
    assert (study["title"], study["hypothesis"]) == ("Toy", "It is so.")
    first, second, third = study["phases"]
    assert [p["presets"][0]["standing"] for p in (first, second)] == ["PASS", "PASS"]
    assert third["presets"] == []
    assert {r["id"] for p in (first, second) for r in p["presets"][0]["runs"]} == {id_of(run) for run in runs}
    assert all(r["declared"] for p in (first, second) for r in p["presets"][0]["runs"])
    assert get(world.root, f"/api/runs/{id_of(runs[-1])}")["inputs"][0]["phase"] == "P1"


def three_hundred(root: Path) -> None:
    run = planted_run(root)
    for number in range(299):
        shutil.copytree(run.path, run.path.with_name(f"20260101T000000.{number:03d}-0123abcd-s{number}"))


def test_three_hundred_runs_are_listed_at_once_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_hundred(tmp_path)
    known: Known = {}
    began = time.process_time()
    first = list_runs(tmp_path, known)
    assert time.process_time() - began < 1.0
    assert len(first["studies"][0]["phases"][1]["presets"][0]["runs"]) == 300

    read: list[Path] = []
    real = run_summary.read_record
    monkeypatch.setattr(run_summary, "read_record", lambda path, **kw: read.append(path) or real(path, **kw))
    assert list_runs(tmp_path, known) == first
    assert read == []
    changed = sorted(known)[7]
    RunDir(changed).append_log({"kind": "train", "step": 4, "seconds": 999.0})
    runs = list_runs(tmp_path, known)["studies"][0]["phases"][1]["presets"][0]["runs"]
    assert read == [changed]
    assert {r["seconds"] for r in runs if r["id"].endswith(changed.name)} == {999.0}
    inner = RunDir(changed / "arms/wide")
    inner.path.mkdir(parents=True)
    inner.append_log({"kind": "train", "step": 4, "seconds": 1.0})
    runs = list_runs(tmp_path, known)["studies"][0]["phases"][1]["presets"][0]["runs"]
    assert read == [changed, changed]
    assert {r["seconds"] for r in runs if r["id"].endswith(changed.name)} == {1000.0}
    shutil.rmtree(changed)
    list_runs(tmp_path, known)
    assert len(known) == 299


# --- one run, and its log -----------------------------------------------------------------------------------------


def test_one_run_is_told(tmp_path: Path) -> None:
    run = planted_run(tmp_path, words={"question": ATTACK})
    told = get(tmp_path, f"/api/runs/{id_of(run)}")
    assert (told["id"], told["outcome"], told["question"]) == (id_of(run), "PASS", ATTACK)
    for figure in told["figures"]:
        assert client_of(tmp_path).get(figure["url"]).content == PIXEL


def test_odd_bytes_in_a_run_are_still_json(tmp_path: Path) -> None:
    run = planted_run(tmp_path, words={"question": "\ud800", "hypothesis": "it is"})
    env = run.path / run.ENV
    env.write_text(env.read_text().replace('"it is"', "NaN"))
    run.append_log({"kind": "train", "step": 4, "loss": float("nan"), "terms": {"\udfff": float("inf")}})
    assert get(tmp_path, f"/api/runs/{id_of(run)}")["question"] == "\ud800"
    assert get(tmp_path, f"/api/runs/{id_of(run)}/log")["lines"][-1]["terms"] == {"\udfff": None}
    get(tmp_path, "/api/runs")


def test_the_log_is_followed_while_it_grows(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    (run.path / run.VERDICT).unlink()
    address = f"/api/runs/{id_of(run)}/log"
    first = get(tmp_path, address)
    assert [line["kind"] for line in first["lines"]] == ["train"] * 3 + ["eval"]
    assert (first["next"], first["total"], first["finished"], first["running"]) == (4, 4, False, True)
    assert get(tmp_path, f"{address}?after=4")["lines"] == []
    run.append_log({"kind": "train", "step": 4})
    with (run.path / run.LOG).open("ab") as file:
        file.write(b'{"kind": "tra')
    run.write_json(run.VERDICT, {})
    last = get(tmp_path, f"{address}?after=4")
    assert last == {
        "lines": [{"kind": "train", "step": 4}],
        "next": 5,
        "total": 5,
        "finished": True,
        "running": False,
        "writing": "",
    }


def test_a_training_inside_a_run_is_followed_too(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    (run.path / run.VERDICT).unlink()
    for seconds, part in ((40, "past"), (0, "arms/wide/picture")):
        inner = RunDir(run.path / part)
        inner.path.mkdir(parents=True)
        inner.append_log({"kind": "train", "step": 7, "loss": 1.5})
        written = time.time() + 100 - seconds
        os.utime(inner.path / run.LOG, (written, written))
    address = f"/api/runs/{id_of(run)}"
    assert get(tmp_path, address)["writing"] == "arms/wide/picture"
    assert get(tmp_path, f"{address}/arms/wide/picture/log")["total"] == 1
    found = get(tmp_path, f"{address}/past/log")
    assert found["lines"] == [{"kind": "train", "step": 7, "loss": 1.5}]
    assert found["writing"] == "arms/wide/picture", "the page goes on there"
    for none in ("figures", "arms", "arms/wide/picture/more"):
        assert f"has no training '{none}'" in get(tmp_path, f"{address}/{none}/log", 404)["error"]
    assert get(tmp_path, f"{address}/../log", 404)


def test_a_run_without_a_log_has_no_lines_yet(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    (run.path / run.LOG).unlink()
    assert get(tmp_path, f"/api/runs/{id_of(run)}/log?after=3")["next"] == 0


def test_whether_it_finished_is_asked_before_the_log_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planted_run(tmp_path)
    verdict = (run.path / run.VERDICT).read_text()
    (run.path / run.VERDICT).unlink()

    def ends_meanwhile(path: Path, after: int) -> Any:
        (run.path / run.VERDICT).write_text(verdict)
        return log_page(path, after)

    monkeypatch.setattr("inscape.explore.runs.log_page", ends_meanwhile)
    assert not log_of_run(tmp_path, run.path.parts[-4:], 0)["finished"], "a page would stop before the last lines"


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "", " 1", "1e3", "%D9%A3", "9" * 5000, "0x1", "%00", "+1"])
def test_a_line_number_is_a_whole_number(tmp_path: Path, after: str) -> None:
    found = get(tmp_path, f"/api/runs/{id_of(planted_run(tmp_path))}/log?after={after}", 400)
    assert found["field"] == "after"
    assert "a whole number from 0 on" in found["error"]
    assert len(found["error"]) < 120


def test_a_log_that_is_no_file_of_the_run_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    for plant in (lambda p: p.symlink_to(tmp_path / "secret"), os.mkfifo, Path.mkdir):
        run = planted_run(tmp_path / "runs")
        (run.path / run.LOG).unlink()
        plant(run.path / run.LOG)
        assert "cannot be read" in get(tmp_path / "runs", f"/api/runs/{id_of(run)}/log", 404)["error"]
        assert "log.jsonl" in get(tmp_path / "runs", f"/api/runs/{id_of(run)}", 404)["error"]


@pytest.mark.parametrize(
    "address",
    ["", "x", "visual/P1/quick", "visual/P1/quick/none", "visual/P1/quick/none/log", "a/b/c/d/e", "a/b/c/d/e/f"],
)
def test_a_run_that_is_not_there_is_not_found(tmp_path: Path, address: str) -> None:
    planted_run(tmp_path)
    assert "/api/runs lists" in get(tmp_path, f"/api/runs/{address}", 404)["error"]


# --- files, and attacks -------------------------------------------------------------------------------------------


def test_pages_and_pictures_may_run_nothing(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    write_report(run)
    write_index(tmp_path)
    (run.figures / "c.SVG").write_text(f'<svg xmlns="http://www.w3.org/2000/svg">{ATTACK}</svg>')
    kinds = {
        f"{id_of(run)}/report.html": "text/html; charset=utf-8",
        "index.html": "text/html; charset=utf-8",
        f"{id_of(run)}/figures/a.png": "image/png",
        f"{id_of(run)}/figures/c.SVG": "image/svg+xml",
    }
    for address, kind in kinds.items():
        answer = client_of(tmp_path).get(f"/runs/{address}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["style-src"] == "'unsafe-inline'"
        assert "data:" in policy["img-src"]
        assert "script-src" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.content == (tmp_path / address).read_bytes()


class Reply(NamedTuple):
    status: int
    body: bytes


def raw(app: Starlette, path: str, query: str = "") -> Reply:
    """A request whose path no client has put in order before it was sent."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": []}
    asyncio.run(
        app(scope | {"http_version": "1.1", "scheme": "http", "server": ("x", 1), "root_path": ""}, receive, send)
    )
    return Reply(sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/ with one run in it, a secret beside it, and links to that."""
    place = tmp_path_factory.mktemp("place")
    run = planted_run(place / "runs")
    write_report(run)
    at = run.path.rename(run.path.with_name("run"))
    for name in ("secret.txt", "report.html", "index.html", "a.png", "log.jsonl", "env.json"):
        (place / name).write_text(SECRET)
    (at / "figures" / "out.png").symlink_to(place / "a.png")
    (at / "out").symlink_to(place)
    (place / "runs" / "up").symlink_to(place)
    (at.parent / "linked").symlink_to(place)
    return place


PIECES = st.sampled_from(
    (
        *("visual", "P1", "quick", "run", "log", "figures", "a.png", "out.png", "report.html", "index.html", "up"),
        *("..", ".", "", "%2e%2e", "..%2f", "%5c..", "\\..\\", "\x00", "%00", "secret.txt", "linked", "out", "runs"),
        *("env.json", "log.jsonl", "config.yaml", "c:", "~root", "a" * 300, "é" * 200, "\n"),
    )
)
RUN_PARTS = st.just(["visual", "P1", "quick", "run"])


@given(
    st.sampled_from(["/runs/", "/api/runs/"]),
    st.one_of(st.just([]), RUN_PARTS, st.just(["visual", "P1", "quick"])),
    st.lists(PIECES | st.text(max_size=6), max_size=7),
    st.sampled_from(["", "after=0", "after=-1", "after=1&after=x", "%", "after"]),
)
def test_no_address_brings_a_fault_or_a_secret(
    place: Path, door: str, start: list[str], rest: list[str], query: str
) -> None:
    reply = raw(Starlette(routes=run_routes(place / "runs")), door + "/".join(start + rest), query)
    assert reply.status in (200, 400, 404)
    assert SECRET.encode() not in reply.body
    if reply.status != 200:
        assert str(place).encode() not in reply.body
        assert "\n" in "".join(rest) or "error" in strict(reply.body.decode())


def test_the_attacks_do_reach_the_routes(place: Path) -> None:
    app = Starlette(routes=run_routes(place / "runs"))
    assert raw(app, "/runs/visual/P1/quick/run/figures/a.png") == (200, PIXEL)
    assert raw(app, "/api/runs/visual/P1/quick/run/log").status == 200
    for path in (
        "/runs/../secret.txt",
        "/runs//etc/passwd",
        "/runs/up/report.html",
        "/runs/visual/P1/quick/run/../run",
    ):
        assert raw(app, path).status == 404


def test_a_slow_disk_does_not_hold_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr("inscape.explore.runs.run_folders", lambda _: threads.append(threading.get_ident()) or [])

    async def ask() -> int:
        app = Starlette(routes=run_routes(tmp_path))
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/api/runs", "query_string": b"", "headers": []}
        await app(scope | {"root_path": ""}, receive, send)
        assert sent[0]["status"] == 200
        return threading.get_ident()

    loop_thread = asyncio.run(ask())
    assert threads
    assert loop_thread not in threads


def test_runs_are_looked_at_without_torch_or_a_study() -> None:
    heavy = ("torch", "inscape.studies", "inscape.codec")
    code = f"import sys, inscape.explore.runs; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
