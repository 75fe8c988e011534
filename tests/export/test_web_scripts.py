"""The exported page's tokenizer and figures by word are those of Python, to the letter: asked through node."""

import json
import random
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inscape import VisualCodec
from inscape.data.scenes import WORDS, render, sample
from inscape.data.tokenizer import EOS, PAD, Tokenizer
from inscape.explore.answers import differences, readings
from inscape.export.web_folder import SCRIPTS
from inscape.studies.visual.coding import speak

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no node here: the page's scripts are asked through it")

SENTENCES = [render(sample(i, facts=1 + i % 3), np.random.default_rng(i)) for i in range(60)]
ODD = [
    "It's they're I've we'll he'd I'm can't 'tis ''s 's' 'S rock'n'roll",
    "<copy> <pad> <unk> < copy > \u0120ball \u0120 Ġ",
    "e\u0301 \u00e9 \u1e9b\u0323 \u212b \ufb01 \u1100\u1161\u11a8 \uac01 \u0958 \u2126",
    "\ufeffball ball\ufeff \ufeff a\ufeffb",
    "a\x1cb\x1dc\x1ed\x1fe \x85f \u2028g\u2029h \u202f \u205f \u3000i \u1680 \u2003\xa0j\x0b\x0c",
    "a\u200bb \u180eb \u2060c \u00ad \x7f\x80\x9f \0 \x01",
    "½ ² ٣٤ ⅷ x2y 1st 3.14 10,000 a1b2c3 ௧ 一二",
    "👩‍👩‍👧 🇩🇪 𝒳𝓎 𐐷 \U0001f3fb \U00010ffff \ue000 \uffff \ufffd",
    "ひらがな カタカナ 漢字 العربية עברית हिन्दी ไทย Ελλάδα ß ſ İ ı",
    'a_b-c/d\\e "q" (x) [y] {z} … — – ‘’ “” !!! ??? ...',
    "__proto__ constructor toString",
    "x" * 300,
]


def strange(count: int) -> list[str]:
    """Words of a few letters from all over Unicode, with what separates them."""
    draw = random.Random(0)
    assigned = [c for c in map(chr, range(0x20000)) if unicodedata.category(c) not in ("Cn", "Cs")]
    common = "aeiou'sdt019.,-_ \t\u00a0\u0301\u0308"

    def word() -> str:
        return "".join(draw.choice(assigned if draw.random() < 0.6 else common) for _ in range(draw.randint(1, 9)))

    return [f"a {' '.join(word() for _ in range(draw.randint(1, 12)))}" for _ in range(count)]


TEXTS = [*SENTENCES, *ODD, *strange(200)]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    folder = tmp_path_factory.mktemp("scripts")
    for file in (SCRIPTS / "tokenizer.js", SCRIPTS / "words.js", Path(__file__).with_name("web_driver.js")):
        shutil.copy(file, folder)
    (folder / "package.json").write_text('{"type": "module"}')

    def asked(tokenizer: Tokenizer, **questions: Any) -> dict[str, Any]:
        given = json.dumps({"definition": json.loads(tokenizer.to_json()), "limit": 10_000} | questions)
        command = [str(NODE), str(folder / "web_driver.js")]
        done = subprocess.run(command, input=given, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return asked


@pytest.fixture(scope="module")
def tokenizers(shipped: VisualCodec) -> dict[str, Tokenizer]:
    other = [*TEXTS[::2], *SENTENCES, "the cat's hat isn't on the mat", "the cats' hats"] * 2
    return {
        "shipped": shipped.trained.tokenizer,
        "bpe": Tokenizer.train(other, 2000, "bpe"),
        "word": Tokenizer.train(other, 400, "word"),
    }


@pytest.mark.parametrize("name", ["shipped", "bpe", "word"])
def test_ids_are_those_of_python_and_so_are_texts(name: str, ask: Callable[..., Any], tokenizers: dict[str, Tokenizer]):
    tokenizer = tokenizers[name]
    wanted = [tokenizer.encode([text], sys.maxsize)[0].tolist() for text in TEXTS]
    found = ask(tokenizer, texts=TEXTS, rows=wanted)
    assert found["encoded"] == wanted
    assert found["decoded"] == [tokenizer.decode([row])[0] for row in wanted]


@pytest.mark.parametrize("name", ["shipped", "bpe", "word"])
def test_any_ids_a_network_may_say_are_decoded_alike(
    name: str, ask: Callable[..., Any], tokenizers: dict[str, Tokenizer]
):
    tokenizer, draw = tokenizers[name], random.Random(1)
    rows = [[draw.randrange(tokenizer.vocab_size) for _ in range(draw.randrange(40))] for _ in range(200)]
    rows += [[draw.randrange(7, 263) for _ in range(30)] for _ in range(200)]  # bytes in any order
    rows.append(tokenizer.encode(["\ufeff"])[0, 2:].tolist())  # a byte order mark that no space stands before
    assert ask(tokenizer, rows=rows)["decoded"] == [tokenizer.decode([row])[0] if row else "" for row in rows]


def test_what_cannot_be_encoded_is_one_line(ask: Callable[..., Any], shipped: VisualCodec):
    texts = ["", " \t\u3000", "a \ud83d ball", "a red ball " * 60, "a red ball " * 20]
    *refused, taken = ask(shipped.trained.tokenizer, texts=texts, limit=64)["encoded"]
    assert refused[0] == refused[1] == "the sentence is empty: give at least one word"
    assert "half a surrogate pair" in refused[2]
    assert refused[3].endswith("a r…' has 182 tokens with start and end, the limit is 64: shorten or split it")
    assert len(taken) == 62
    with pytest.raises(ValueError, match="has 182 tokens with start and end, the limit is 64") as caught:
        shipped.trained.tokenizer.encode([texts[3]])
    assert str(caught.value).startswith(refused[3].partition(" has ")[0])


def test_words_look_where_the_served_page_says(ask: Callable[..., Any], shipped: VisualCodec):
    latent_NCHW = shipped.encode(SENTENCES[:12])
    latent_NCHW[6:] += 0.8 * latent_NCHW[:6]  # and some that say what was never written
    spoken = speak(shipped.trained, latent_NCHW)
    told = [
        {"tokens": tokens_T.tolist(), "attention": attention_TM.tolist()}
        for tokens_T, attention_TM in zip(spoken.tokens_NT, spoken.attention_NTM, strict=True)
    ]
    assert {PAD, EOS} <= set(told[0]["tokens"])
    height, width = shipped.trained.model.reader.grid
    found = ask(shipped.trained.tokenizer, spoken=told, patches=height * width)["words"]
    for words, wanted in zip(found, readings(shipped, latent_NCHW), strict=True):
        assert [word["text"] for word in words] == [word["text"] for word in wanted["words"]]
        for one, other in zip(words, wanted["words"], strict=True):
            np.testing.assert_allclose(one["attention"], other["attention"], rtol=0, atol=1)
            assert max(one["attention"]) == 255
            assert one["on_z"] == pytest.approx(other["on_z"], abs=2e-4)


def test_differences_are_those_of_difflib(ask: Callable[..., Any], shipped: VisualCodec):
    draw = random.Random(2)
    pairs = [[" ".join(draw.choices("abcd", k=draw.randrange(9))) for _ in range(2)] for _ in range(300)]
    pairs += [[one, other] for one, other in pairwise(SENTENCES)]
    found = ask(shipped.trained.tokenizer, pairs=pairs)["differences"]
    assert found == [differences(*pair) for pair in pairs]


def test_what_the_codec_forgives_is_no_difference(tmp_path: Path, shipped: VisualCodec):
    here, said = Path(__file__).parent, "a red ball is on the blue block"
    texts = ["A red  ball is on the blue block.", "A red ball is on the weather.", said]
    for file in (*(SCRIPTS / f"{name}.js" for name in ("backend", "tokenizer", "words")), here / "backend_driver.js"):
        shutil.copy(file, tmp_path)
    shutil.copy(here / "planted_network.js", tmp_path / "network.js")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    tokenizer = shipped.trained.tokenizer
    files = {
        "config.json": {},
        "tokenizer.json": json.loads(tokenizer.to_json()),
        "about.json": {"weights": "", "words": list(WORDS)},
    }
    given = {"texts": texts, "said": tokenizer.encode([said])[0].tolist(), "files": files}
    command = [str(NODE), str(tmp_path / "backend_driver.js")]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["sentence"] for one in found["encoded"]] == texts, "as it was typed"
    assert [one["reading"]["sentence"] for one in found["encoded"]] == [said] * 3
    assert [one["difference"] for one in found["encoded"]] == [differences(shipped.as_spelled(t), said) for t in texts]
    assert [d["kind"] for d in found["encoded"][0]["difference"]] == ["same"]
    assert set(found["compared"]["first"]) == {"sentence", "latent", "warning", "scene", "reading"}
