"""`--format web`: the page of `inscape explore` with the codec inside it, for any server of plain files.

The page is the one that `inscape explore` serves; only the script that asks its server is another, which asks
onnxruntime-web in the same page instead. A visitor's sentences stay in the visitor's browser.
"""

from __future__ import annotations

from pathlib import Path

from inscape.codec import VisualCodec
from inscape.core.rundir import write_atomically, write_json_atomically
from inscape.data.scenes import WORDS
from inscape.explore.app import STATIC
from inscape.export.hub_folder import megabytes
from inscape.export.onnx_folder import write_onnx_model
from inscape.export.web_runtime import LICENSE, VERSION, find_runtime
from inscape.studies.visual.model import TrainedCodec

__all__ = ["POLICY", "RUNTIME", "SCRIPTS", "write_web"]

SCRIPTS = Path(__file__).with_name("web")  # in the place of the page's own files of the same names
RUNTIME = {  # name in onnxruntime-web -> in the folder; .js, for not every server knows what .mjs is
    "ort.wasm.bundle.min.mjs": "onnxruntime/ort.js",
    "ort-wasm-simd-threaded.wasm": "onnxruntime/ort.wasm",
    LICENSE: f"onnxruntime/{LICENSE}",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
CHANGES = {  # of index.html
    '<meta charset="utf-8">': f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
    '"static/': '"',
    'id="weights" class="faint">': 'id="weights" class="faint">The codec is being loaded: {size} …',
    "<p>The page asks": "<p>Sentences stay in this browser: the codec runs in it, and the page asks",
}
USAGE = f"""
## This folder

A page to write, touch and compare latents, with the codec inside it. Any server of plain files will do, such as

    python -m http.server --bind 127.0.0.1

in this folder; then open the address that it says. Opened from the disk (`file:`) it does not work: browsers load no
modules from there. No other host is asked for anything, and no sentence leaves the browser.

Missing beside `inscape explore`: paraphrases, the drawing of scenes, statistics beside photographs, runs. There is no
parser here either: a sentence of the grammar's words is taken as it stands, but for a capital first letter and a
final stop.

In `onnxruntime/`: onnxruntime-web {VERSION}, Copyright (c) Microsoft Corporation, MIT License.
"""


def write_web(codec: TrainedCodec, about: str, folder: Path) -> str:
    """Fill the folder; returns what it is, in words. ValueError in one line where onnxruntime-web cannot be had."""
    runtime = find_runtime()
    write_onnx_model(codec, folder)
    for name, content in runtime.items():
        write_atomically(folder / RUNTIME[name], content)
    _write_about(codec, about, folder)
    for file in (*STATIC.iterdir(), *SCRIPTS.iterdir()):  # in this order: backend.js is in both
        if file.is_file() and file.name != "index.html":
            write_atomically(folder / file.name, file.read_bytes())
    write_atomically(folder / "index.html", _front(megabytes(folder)))
    write_atomically(folder / "README.md", f"{about or '# inscape visual codec'}\n{USAGE}")
    return f"a page for any server of plain files, such as python -m http.server in it, {megabytes(folder)}"


def _write_about(codec: TrainedCodec, about: str, folder: Path) -> None:
    """What config.json has no place for: a name for the weights, and the grammar's words if it was trained on them."""
    title = about.partition("\n")[0].removeprefix("#").strip() or "inscape visual codec"
    words = list(WORDS) if VisualCodec(codec).knows_grammar else []
    write_json_atomically(folder / "about.json", {"weights": title, "words": words})


def _front(size: str) -> str:
    """The page's front with its files beside it, and the rules that a server would send as headers."""
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    for old, new in CHANGES.items():
        assert old in page, f"the page has no {old}"
        page = page.replace(old, new.replace("{size}", size))
    return page
