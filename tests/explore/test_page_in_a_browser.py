"""The page as a person meets it, in headless Chromium: typed at, painted on, taken back, in the dark, on a phone.

Marked `browser`; skipped with a reason where there is no Chromium (INSCAPE_CHROMIUM names one that lies elsewhere).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import Open, launched, paint, says, watched
from planted_runs import planted_run
from sampling_codec import sampling_weights
from test_server import explore

from inscape.core.rundir import RunDir

pytestmark = pytest.mark.browser

FINDINGS = Path(__file__).with_name("page_findings.js")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    planted_run(folder / "runs")
    with explore(folder, "--port", "0") as (found, _):
        yield f"http://{found}/"


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Open]:
    with watched(chromium, address) as open_page:
        yield open_page


def test_a_sentence_is_typed_and_the_picture_follows(page: Open) -> None:
    opened = page()
    says(opened, "a red ball is on the blue block")
    before = opened.evaluate("document.getElementById('canvas').toDataURL()")
    opened.locator("#sentence").fill("two small green cones are next to the large yellow cylinder")
    says(opened, "two small green cones are next to the large yellow cylinder")
    assert opened.evaluate("document.getElementById('canvas').toDataURL()") != before
    assert "large yellow cylinder next to two small green cones" in opened.locator("#scene-now").inner_text()
    assert opened.locator("#channels button").count() == 7
    assert opened.locator("#spectra svg").count() == 6
    opened.wait_for_function("() => document.querySelectorAll('#paraphrases li').length === 5")


def test_a_picture_is_drawn_out_of_noise_where_the_codec_can(page: Open, chromium: Any, tmp_path: Path) -> None:
    assert page().locator("#draw").is_hidden()
    with (
        explore(tmp_path, "--port", "0", "--weights", str(sampling_weights(tmp_path))) as (found, _),
        watched(chromium, f"http://{found}/") as open_page,
    ):
        opened = open_page()
        says(opened, "a red ball is on the blue block")
        before = opened.evaluate("document.getElementById('canvas').toDataURL()")
        opened.locator("#draw").click()
        opened.wait_for_function(
            "() => document.getElementById('sentence').value !== 'a red ball is on the blue block'"
        )
        says(opened, opened.locator("#sentence").input_value())
        assert opened.evaluate("document.getElementById('canvas').toDataURL()") != before
        assert opened.locator("#undo").is_disabled(), "it is a new picture, and not a change to the last"


def test_painting_changes_what_is_said_and_undo_takes_it_back(page: Open) -> None:
    opened = page()
    says(opened, "a red ball is on the blue block")
    paint(opened)
    opened.wait_for_function("() => Number(document.getElementById('cosine-said').textContent) < 0.95")
    opened.wait_for_selector("#change:not(:empty)")
    assert opened.locator("#change").inner_text().startswith("Changed: ")
    assert opened.locator(".word.changed").count() >= 1
    opened.locator("#undo").click()
    says(opened, "a red ball is on the blue block")
    assert opened.locator("#cosine-said").inner_text() == "1.000"
    assert opened.locator("#undo").is_disabled()
    opened.locator("#redo").click()
    opened.wait_for_function("() => Number(document.getElementById('cosine-said').textContent) < 0.95")


@pytest.mark.parametrize("tool", ["left", "down", "blur", "shuffle", "noise"])
def test_every_tool_for_the_whole_picture_can_be_taken_back(page: Open, tool: str) -> None:
    opened = page()
    says(opened, "a red ball is on the blue block")
    before = opened.evaluate("document.getElementById('canvas').toDataURL()")
    opened.locator(f"[data-do={tool}]").click()
    assert opened.evaluate("document.getElementById('canvas').toDataURL()") != before
    assert opened.locator("#done").inner_text()
    opened.locator("#reset").click()
    assert opened.evaluate("document.getElementById('canvas').toDataURL()") == before


def test_a_channel_of_another_sentence_is_swapped_in(page: Open) -> None:
    opened = page()
    says(opened, "a red ball is on the blue block")
    opened.locator("#all-channels").check()
    opened.locator("#donor").fill("a green ring is on the blue block")
    opened.locator("#swap").click()
    says(opened, "a green ring is on the blue block")


def test_everything_can_be_done_by_keyboard(page: Open) -> None:
    opened = page()
    says(opened, "a red ball is on the blue block")
    for _ in range(60):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.id") == "canvas":
            break
    else:
        pytest.fail("Tab never comes to the canvas")
    before = opened.evaluate("document.querySelector('[data-channel=\"0\"] canvas').toDataURL()")
    for key in ("ArrowLeft", "ArrowUp", "Space"):
        opened.keyboard.press(key)
    assert opened.locator("#cursor-said").inner_text() == "Column 16, row 16"
    assert opened.evaluate("document.querySelector('[data-channel=\"0\"] canvas').toDataURL()") != before
    opened.keyboard.press("Control+z")
    assert opened.evaluate("document.querySelector('[data-channel=\"0\"] canvas').toDataURL()") == before


def test_a_word_shows_where_it_was_read(page: Open) -> None:
    opened = page()
    says(opened, "a red ball is on the blue block")
    before = opened.evaluate("document.getElementById('canvas').toDataURL()")
    opened.locator(".word", has_text="red").hover()
    assert opened.evaluate("document.getElementById('canvas').toDataURL()") != before


def test_bad_input_is_told_beside_its_control_and_goes_away(page: Open) -> None:
    opened = page()
    opened.locator("#sentence").fill(" ")
    opened.wait_for_selector("#sentence-problem:not(:empty)")
    assert "sentence is empty" in opened.locator("#sentence-problem").inner_text()
    assert opened.locator("#sentence").get_attribute("aria-invalid") == "true"
    opened.locator("#sentence").fill("the weather is fine")
    opened.wait_for_selector("#sentence-warning:not(:empty)")
    assert "'weather'" in opened.locator("#sentence-warning").inner_text()
    assert opened.locator("#sentence-problem").inner_text() == ""
    opened.locator("#swap").click()
    opened.wait_for_selector("#donor-problem:not(:empty)")


def test_the_skip_link_stays_in_its_part_and_odd_addresses_open_the_first(page: Open) -> None:
    opened = page("#/two")
    opened.locator("#way li").first.wait_for()
    opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "main"
    assert opened.locator("#two").is_visible()
    for odd in ("#/constructor", "#/%zz", "#/nothing/at/all"):
        again = page(odd)
        says(again, "a red ball is on the blue block")
    broken = page("#/runs/%zz")
    broken.wait_for_selector("#runs-problem:not(:empty)")


def test_a_sentence_typed_while_a_reading_is_on_its_way_is_what_is_shown(page: Open) -> None:
    opened = page()
    says(opened, "a red ball is on the blue block")
    for _ in range(3):
        paint(opened, size=8)
        opened.locator("#sentence").fill("a green ring is on the blue block")
        says(opened, "a green ring is on the blue block")
        opened.locator("#sentence").fill("a red ball is on the blue block")
        says(opened, "a red ball is on the blue block")
        opened.wait_for_timeout(200)
        assert opened.locator("#cosine-said").inner_text() == "1.000"


def test_a_run_that_is_not_the_declared_one_says_so(page: Open, folder: Path) -> None:
    run = planted_run(folder / "runs", overrides={"steps": 3})
    opened = page(f"#/runs/{'/'.join(run.path.parts[-4:])}")
    opened.wait_for_selector("#run .warning")
    said = opened.locator("#run .warning").inner_text()
    assert "steps=3" in said
    assert "It opens no gate." in said


def test_between_two_sentences(page: Open) -> None:
    opened = page("#/two")
    opened.wait_for_function("() => document.querySelectorAll('#way li').length === 9")
    assert "changed places" in opened.locator("#apart").inner_text()
    opened.locator("#share").fill("1")
    opened.wait_for_function(
        "() => document.getElementById('mixed-said').textContent === 'the blue block is on a red ball'"
    )
    opened.locator("#second").fill("")
    opened.wait_for_selector("#second-problem:not(:empty)")


def test_runs_are_looked_at_and_a_live_one_followed(page: Open, folder: Path) -> None:
    live = planted_run(folder / "runs")
    for name in (RunDir.VERDICT, RunDir.METRICS):
        (live.path / name).unlink()
    opened = page("#/runs")
    opened.wait_for_selector("#runs-list details")
    opened.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    address = "/".join(live.path.parts[-4:])
    opened.locator(f"a[href='#/runs/{address}']").click()
    opened.wait_for_selector("#live svg")
    live.append_log({"kind": "train", "step": 1234, "loss": 0.5, "terms": {"image": 0.25}})
    opened.wait_for_function("() => document.getElementById('run').textContent.includes('step 1234, loss 0.5')")
    assert "terms.image" in opened.locator("#live").inner_html()


@pytest.mark.parametrize("part", ["#/touch", "#/two", "#/runs"])
@pytest.mark.parametrize("how", [{"viewport": {"width": 320, "height": 640}}, {"color_scheme": "dark"}])
def test_on_a_phone_and_in_the_dark(page: Open, part: str, how: dict[str, Any]) -> None:
    opened = page(part, **how)
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
    back, ink = opened.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    light, dark = brightness(back), brightness(ink)
    assert (light < dark) == ("color_scheme" in how)


def brightness(colour: str) -> int:
    return sum(int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("part", ["#/touch", "#/two", "#/runs"])
def test_nothing_serious_stands_in_anyones_way(page: Open, part: str, scheme: str) -> None:
    opened = page(part, color_scheme=scheme)
    opened.wait_for_timeout(500)
    opened.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert opened.evaluate(FINDINGS.read_text()) == []
