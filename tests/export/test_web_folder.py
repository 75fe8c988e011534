"""The exported page: what is in its folder, and that in a browser it says what the codec says, token for token."""

import contextlib
import functools
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsers import Open, launched, paint, says, watched

from inscape import VisualCodec
from inscape.data.scenes import WORDS
from inscape.data.scenes.evaluation import evaluation_pack
from inscape.data.tokenizer import EOS, PAD, Tokenizer
from inscape.explore.answers import readings
from inscape.explore.app import STATIC
from inscape.export import export, web_runtime
from inscape.export.web_folder import POLICY, RUNTIME, SCRIPTS
from inscape.export.web_runtime import FILES, FOLDER, find_runtime
from inscape.studies.visual.coding import speak
from inscape.studies.visual.model import save_codec

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SENTENCE = "a red ball is on the blue block"
MODEL = {"encoder.onnx", "readout.onnx", "decoder_step.onnx", "config.json", "tokenizer.json", "about.json"}
FINDINGS = Path(__file__).parent.parent / "explore" / "page_findings.js"


# --- the folder, without a browser --------------------------------------------------------------------------------


@pytest.fixture
def dist(tmp_path: Path, monkeypatch) -> Path:
    """A runtime that only looks like one."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(f"// {name}")
    pinned = {name: hashlib.sha256(f"// {name}".encode()).hexdigest() for name in FILES}
    monkeypatch.setattr(web_runtime, "FILES", pinned)
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


@pytest.fixture
def out(dist: Path, tiny, tmp_path: Path) -> Path:
    save_codec(tiny(), tmp_path / "codec.safetensors", about="# Tiny, of nothing\n\nMore.")
    said = export("web", tmp_path / "out", tmp_path / "codec.safetensors")
    assert re.fullmatch(r".*out: a page for any server of plain files, .*, \d\.\d MB", said)
    return tmp_path / "out"


def test_it_holds_the_page_the_codec_and_the_runtime(out: Path):
    page = {file.name for file in (*STATIC.iterdir(), *SCRIPTS.iterdir())}
    runtime = {name for name in RUNTIME.values() if "LICENSE" not in name}
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == page | MODEL | runtime | {"README.md"}
    for file in (*SCRIPTS.iterdir(), STATIC / "touch.js", STATIC / "page.css"):
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert (out / "backend.js").read_bytes() != (STATIC / "backend.js").read_bytes()
    assert json.loads((out / "about.json").read_text()) == {"weights": "Tiny, of nothing", "words": list(WORDS)}
    assert "Tiny, of nothing" in (out / "README.md").read_text()


def test_the_front_asks_for_files_beside_it_under_strict_rules(out: Path):
    front = (out / "index.html").read_text()
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in front
    assert front.index("Content-Security-Policy") < front.index("<link")
    assert "unsafe-inline" not in front
    assert re.findall(r'(?:src|href)="([^"#]+)"', front) == ["icon.svg", "page.css", "main.js"]
    assert "static/" not in front


def test_every_script_finds_what_it_imports(out: Path):
    imports = r'import \{([^}]+)\} from "\./([^"]+)"'
    for script in out.glob("*.js"):
        for names, name in re.findall(imports, script.read_text()):
            exported = (out / name).read_text()
            for wanted in names.split(","):
                assert re.search(rf"export .*\b{wanted.strip()}\b", exported), f"{script.name}: {wanted} of {name}"
    assert 'from "./onnxruntime/ort.js"' in (out / "network.js").read_text()


def test_it_names_no_other_host_and_no_place_of_this_machine(out: Path):
    for path in (file for file in out.iterdir() if file.is_file()):
        text = path.read_bytes().decode("latin-1")
        if path.suffix != ".onnx":
            addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text))
            assert {address for address in addresses if "www.w3.org" not in address} == set(), path.name
        assert str(out.parent) not in text
        assert str(SCRIPTS.parent) not in text
        assert "eval(" not in text


def test_a_codec_of_other_text_has_no_words_to_doubt(dist: Path, tiny, tmp_path: Path):
    tokenizer = Tokenizer.train(["the cat sat on the mat", "the cat sat on the dog"], 400)
    save_codec(tiny(vocab=tokenizer.vocab_size)._replace(tokenizer=tokenizer), tmp_path / "codec.safetensors")
    export("web", tmp_path / "out", tmp_path)
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about == {"weights": "inscape visual codec", "words": []}


def test_a_runtime_that_cannot_be_had_leaves_nothing_behind(dist: Path, tiny, tmp_path: Path, monkeypatch):
    save_codec(tiny(), tmp_path / "codec.safetensors")

    def refused(said: str) -> None:
        with pytest.raises(ValueError, match=said) as caught:
            export("web", tmp_path / "out", tmp_path)
        assert "\n" not in str(caught.value)
        assert {path.name for path in tmp_path.iterdir()} == {"codec.safetensors", "dist"}

    (dist / next(iter(FILES))).write_text("damaged")
    refused("is damaged or of another version; set INSCAPE_ORT_WEB")
    monkeypatch.delenv(FOLDER)
    monkeypatch.setenv("PATH", "")
    refused("npm, which would fetch it, is not here; set INSCAPE_ORT_WEB")


# --- the page, in a browser ---------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """What `python -m http.server` does."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The shipped codec's page; the runtime is fetched once, and the tests are skipped where it cannot be."""
    try:
        runtime = find_runtime()
    except ValueError as error:
        pytest.skip(str(error))
    dist = tmp_path_factory.mktemp("dist")
    for name, content in runtime.items():
        (dist / name).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(dist))
        out, _ = exported("web")
    with served(out) as found:
        yield found


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Open]:
    with watched(chromium, address) as open_page:
        yield open_page


browser = pytest.mark.browser
HELD_OUT = [item.sentence for item in evaluation_pack().items if item.split == "heldout"]
ASKED = HELD_OUT[:: len(HELD_OUT) // 50][:50]


@browser
def test_fifty_held_out_sentences_are_decoded_token_for_token(page: Open, shipped: VisualCodec):
    found = page().evaluate(
        """async (sentences) => {
            const { loaded, encode } = await import("./backend.js");
            const { network, tokenizer } = await loaded();
            const found = [];
            for (const sentence of sentences) {
                const { latent, reading } = await encode(sentence);
                const [{ tokens }] = await network.read([latent]);
                found.push({ ids: tokenizer.encode(sentence), tokens, reading, some: [...latent.slice(0, 512)] });
            }
            return found;
        }""",
        ASKED,
    )
    latent_NCHW = shipped.encode(ASKED)
    spoken = speak(shipped.trained, latent_NCHW)
    assert len(set(spoken.texts)) > 40
    assert [one["reading"]["sentence"] for one in found] == spoken.texts
    for one, sentence, tokens_T in zip(found, ASKED, spoken.tokens_NT, strict=True):
        assert one["ids"] == shipped.trained.tokenizer.encode([sentence])[0].tolist()
        assert one["tokens"] == [token for token in tokens_T.tolist() if token != PAD]
        assert one["tokens"][-1] == EOS
    some_NS = latent_NCHW.flatten(1)[:, :512].numpy()
    np.testing.assert_allclose([one["some"] for one in found], some_NS, 1e-4, 1e-4)
    for one, wanted in zip(found, readings(shipped, latent_NCHW), strict=True):
        assert one["reading"].keys() == wanted.keys()
        assert [word["text"] for word in one["reading"]["words"]] == [word["text"] for word in wanted["words"]]
        for word, other in zip(one["reading"]["words"], wanted["words"], strict=True):
            np.testing.assert_allclose(word["attention"], other["attention"], rtol=0, atol=1)
            assert word["on_z"] == pytest.approx(other["on_z"], abs=1e-3)


@browser
def test_cosines_and_what_lies_between_are_the_codecs(page: Open, shipped: VisualCodec):
    one, other = SENTENCE, "two small green cones are next to the large yellow cylinder"
    compared, between, noise = page().evaluate(
        """async ([one, other, noise]) => {
            const { compare, interpolate, read } = await import("./backend.js");
            return [await compare(one, other), await interpolate(one, other, 9), await read(Float32Array.from(noise))];
        }""",
        [one, other, np.random.default_rng(0).standard_normal(6 * 32 * 32).tolist()],
    )
    assert compared["cosine"] == pytest.approx(shipped.similarity(one, other), abs=1e-4)
    assert compared["second"]["reading"]["sentence"] == other
    assert [step["sentence"] for step in between["steps"]] == shipped.interpolate(one, other, 9)
    assert between["steps"][0]["cosine_first"] == between["steps"][-1]["cosine_second"] == pytest.approx(1)
    latent = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 6, 32, 32)).astype(np.float32))
    assert noise["reading"]["sentence"] == shipped.decode(latent)[0]
    assert "cosine" not in noise


@browser
def test_many_questions_at_once_are_answered_each_as_alone(page: Open, shipped: VisualCodec):
    said = page().evaluate(
        """async (sentences) => {
            const { encode } = await import("./backend.js");
            return (await Promise.all(sentences.map(encode))).map(({ reading }) => reading.sentence);
        }""",
        ASKED[:20],
    )
    assert said == shipped.decode(shipped.encode(ASKED[:20]))


@browser
def test_a_sentence_is_typed_painted_on_and_had_back(page: Open):
    opened = page()
    says(opened, SENTENCE)
    opened.locator("#sentence").fill("Two small green cones are next to the large yellow cylinder.")
    says(opened, "two small green cones are next to the large yellow cylinder")
    assert opened.locator("#change").inner_text() == "", "a capital and a full stop are forgiven"
    assert opened.locator("#sentence-warning").inner_text() == ""
    before = opened.evaluate("document.getElementById('canvas').toDataURL()")
    opened.locator(".word", has_text="green").hover()
    assert opened.evaluate("document.getElementById('canvas').toDataURL()") != before
    paint(opened)
    opened.wait_for_function("() => Number(document.getElementById('cosine-said').textContent) < 0.95")
    assert opened.locator("#change").inner_text().startswith("Changed: ")
    opened.locator("#reset").click()
    opened.wait_for_function("() => document.getElementById('cosine-said').textContent === '1.000'")


@browser
def test_what_needs_a_server_is_not_there(page: Open):
    opened = page("#/runs")
    assert opened.locator("#touch").is_visible()
    for hidden in ("#runs", "nav a[href='#/runs']", "#paraphrases", "#spectra", "#scene-now"):
        assert not opened.locator(hidden).is_visible(), hidden
    assert opened.locator("#weights").inner_text() == "inscape visual codec, preset small, seed 0, 6 × 32 × 32"


@browser
def test_bad_input_is_told_beside_its_control(page: Open):
    opened = page()
    opened.locator("#sentence").fill(" ")
    opened.wait_for_selector("#sentence-problem:not(:empty)")
    assert "sentence is empty" in opened.locator("#sentence-problem").inner_text()
    opened.locator("#sentence").fill("a red ball " * 60)
    opened.wait_for_function(
        "() => document.getElementById('sentence-problem').textContent.includes('182 tokens with start and end')"
    )
    opened.locator("#sentence").fill("the weather is fine")
    opened.wait_for_selector("#sentence-warning:not(:empty)")
    assert "'weather' is not one of the" in opened.locator("#sentence-warning").inner_text()
    assert opened.locator("#sentence-problem").inner_text() == ""


@browser
def test_between_two_sentences(page: Open):
    opened = page("#/two")
    opened.wait_for_function("() => document.querySelectorAll('#way li').length === 9")
    opened.locator("#share").fill("1")
    opened.wait_for_function(
        "() => document.getElementById('mixed-said').textContent === 'the blue block is on a red ball'"
    )
    opened.locator("#second").fill("")
    opened.wait_for_selector("#second-problem:not(:empty)")


@browser
@pytest.mark.parametrize("part", ["#/touch", "#/two"])
def test_nothing_serious_stands_in_anyones_way(page: Open, part: str):
    opened = page(part, viewport={"width": 320, "height": 640})
    opened.wait_for_timeout(500)
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
    assert opened.evaluate(FINDINGS.read_text()) == []


@browser
@pytest.mark.parametrize("name", ["encoder.onnx", "config.json", "onnxruntime/ort.wasm"])
@pytest.mark.parametrize(("part", "place"), [("", "#sentence-problem"), ("#/two", "#two-problem")])
def test_a_folder_that_is_not_whole_is_one_line(chromium: Any, address: str, name: str, part: str, place: str):
    page = chromium.new_page()
    page.route(f"**/{name}", lambda route: route.fulfill(status=404))
    page.goto(address + part)
    page.wait_for_selector("html[data-ready]")
    said = page.locator(place).inner_text()
    loading = page.locator("#weights").inner_text()
    page.close()
    assert loading == "", "it no longer says that the codec is being loaded"
    assert f"{name} cannot be fetched (status 404); the exported folder is not whole" in said
    assert "\n" not in said
