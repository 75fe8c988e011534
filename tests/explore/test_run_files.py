"""What may be sent is sent, and of everything else not a byte, whatever the address and whatever links lie about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_runs import PIXEL, planted_run

from inscape.explore.run_files import (
    Declined,
    figure_names,
    is_name,
    is_run,
    is_servable,
    names_of,
    run_folder,
    servable_file,
    strays,
)
from inscape.report import write_index, write_report

SECRET = b"a secret that no page may show"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/ with one run under the name `run`, links of all kinds in it, and a secret beside it."""
    folder = tmp_path_factory.mktemp("place")
    root = folder / "runs"
    run = planted_run(root)
    write_report(run)
    at = run.path.rename(run.path.with_name("run"))
    write_index(root)
    outside = folder / "outside"
    (outside / "figures").mkdir(parents=True)
    for name in ("secret.txt", "report.html", "index.html", "figures/a.png", "env.json"):
        (outside / name).write_bytes(SECRET)
    (at / "figures" / "notes.txt").write_bytes(SECRET)
    (at / "figures" / ".hidden.png").write_bytes(SECRET)
    (at / "figures" / "out.png").symlink_to(outside / "figures" / "a.png")
    (at / "figures" / "config.png").symlink_to(at / "config.yaml")
    (at / "figures" / "same.png").symlink_to(at / "figures" / "a.png")
    (at / "figures" / "ring.png").symlink_to("ring.png")
    (at / "figures" / "nowhere.png").symlink_to("nothing.png")
    (at / "figures" / "folder.png").mkdir()
    os.mkfifo(at / "figures" / "pipe.png")
    (root / "visual" / "P1" / "quick" / "linked").symlink_to(outside)
    (root / "visual" / "P1" / "quick" / "again").symlink_to("run")
    (root / "up").symlink_to(folder)
    (root / "report.html").write_bytes(SECRET)
    (root / "visual" / "index.html").write_bytes(SECRET)
    return folder


RUN = ("visual", "P1", "quick", "run")


def fetch(place: Path, address: str) -> bytes:
    return servable_file(place / "runs", names_of(address)).content


def test_the_report_the_figures_and_the_index_are_sent(place: Path) -> None:
    page = servable_file(place / "runs", (*RUN, "report.html"))
    assert page.content == (place / "runs" / Path(*RUN) / "report.html").read_bytes()
    assert page.media_type == "text/html; charset=utf-8"
    assert servable_file(place / "runs", (*RUN, "figures", "a.png")) == (PIXEL, "image/png")
    assert servable_file(place / "runs", (*RUN, "figures", "same.png")).content == PIXEL
    assert fetch(place, "visual/P1/quick/again/figures/b.png") == PIXEL
    assert fetch(place, "index.html").startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/",
        ".",
        "..",
        "../outside/secret.txt",
        "visual/P1/quick/run",
        "visual/P1/quick/run/",
        "visual/P1/quick/run/config.yaml",
        "visual/P1/quick/run/env.json",
        "visual/P1/quick/run/index.html",
        "visual/P1/quick/run/figures",
        "visual/P1/quick/run/figures/notes.txt",
        "visual/P1/quick/run/figures/captions.json",
        "visual/P1/quick/run/figures/.hidden.png",
        "visual/P1/quick/run/figures/out.png",
        "visual/P1/quick/run/figures/config.png",
        "visual/P1/quick/run/figures/ring.png",
        "visual/P1/quick/run/figures/nowhere.png",
        "visual/P1/quick/run/figures/folder.png",
        "visual/P1/quick/run/figures/pipe.png",
        "visual/P1/quick/run/figures/gone.png",
        "visual/P1/quick/run/figures/a.png/",
        "visual/P1/quick/run/figures/a.png\x00.png",
        "visual/P1/quick/run/figures/..\\..\\config.png",
        "visual/P1/quick/run/figures/../figures/a.png",
        "visual/P1/quick/run//report.html",
        "/visual/P1/quick/run/report.html",
        "visual/P1/quick/linked/report.html",
        "visual/P1/quick/linked/figures/a.png",
        "visual/P1/quick/" + 300 * "a" + "/report.html",
        "visual/P1/quick/" + 200 * "é" + "/report.html",
        "visual/P1/quick/run/figures/" + 251 * "a" + ".png",
        "up/outside/report.html",
        "up/runs/visual/P1/quick/run/report.html",
        "report.html",
        "visual/index.html",
    ],
)
def test_nothing_else_is(place: Path, address: str) -> None:
    with pytest.raises(Declined) as declined:
        fetch(place, address)
    assert declined.value.status == 404
    assert str(place) not in str(declined.value)
    assert "\n" not in str(declined.value)


PIECES = st.sampled_from(
    (
        *RUN,
        *("figures", "a.png", "out.png", "config.png", "report.html", "index.html", "env.json", "notes.txt", "linked"),
        *("up", "outside", "secret.txt", "runs", "..", ".", "", "\x00", "%2e%2e", "..\\..", "C:", "~", "again"),
    )
)


@given(st.lists(PIECES | st.text(max_size=8), max_size=9), st.sampled_from(["/", "//", "\\", "/../", "/./"]))
def test_no_address_reaches_a_secret(place: Path, pieces: list[str], between: str) -> None:
    try:
        content = fetch(place, between.join(pieces))
    except Declined as declined:
        assert str(place) not in str(declined)  # noqa: PT017
    else:
        assert SECRET not in content
        assert pieces[-1] in ("a.png", "report.html", "index.html")


@given(st.text(max_size=300))
def test_a_name_stays_where_it_is_put(name: str) -> None:
    if is_name(name):
        assert Path("a", name).parts == ("a", name)
        assert Path(os.path.normpath(Path("a", name))).parts == ("a", name)
        name.encode()  # no half surrogate pair
        assert "\x00" not in name


def test_names_that_runs_have_are_names() -> None:
    for name in ("20260101T000000.001-0123abcd-s0", "small+data.text=multi30k.tsv", "audio-structure", "seed-0"):
        assert is_name(name)
    for name in ("", ".", "..", ".git", "a/b", "a\\b", "C:", "a\nb", "a\x00", "a" * 256, "é" * 128, "\ud800"):
        assert not is_name(name), name


def test_a_run_is_a_folder_inside(place: Path) -> None:
    root = place / "runs"
    assert run_folder(root, RUN) == root.joinpath(*RUN)
    assert is_run(root, RUN)
    for names in (RUN[:3], (*RUN, "figures"), ("visual", "P1", "quick", "linked"), ("visual", "P1", "quick", "..")):
        assert not is_run(root, names)
        with pytest.raises(Declined):
            run_folder(root, names)


def test_figures_are_those_that_would_be_sent(place: Path) -> None:
    names = figure_names(place / "runs", RUN)
    assert names == ["a.png", "b.png", "same.png"]
    assert all(is_servable(place / "runs", (*RUN, "figures", name)) for name in names)
    assert figure_names(place / "runs", ("visual", "P1", "quick", "none")) == []


def test_strays_are_links_that_lead_out_and_what_is_no_file(place: Path) -> None:
    root = place / "runs"
    folder = root.joinpath(*RUN)
    assert strays(root, folder, ["env.json", "gate.json", "never.json", "figures/same.png"]) == []
    assert strays(root, folder, ["figures/out.png"]) == [
        "out.png is reached by a link that leads out of the runs folder, or nowhere"
    ]
    for name in ("pipe.png", "folder.png"):
        assert strays(root, folder / "figures", [name]) == [f"{name} is no plain file"]
    assert len(strays(root, folder.with_name("linked"), ["env.json"])) == 1, "a link further up counts as well"


def test_a_root_that_is_a_link_is_a_root(place: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(place / "runs")
    assert fetch(tmp_path, "visual/P1/quick/run/figures/a.png") == PIXEL
