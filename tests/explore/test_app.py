"""The page's API and what guards it: every answer is JSON, nothing is a traceback, nothing leaves the host."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from sampling_codec import sampling_codec
from starlette.testclient import TestClient

from inscape import VisualCodec
from inscape.data.scenes import parse
from inscape.explore.app import LARGEST_BODY, STATIC, build_app, hosts_of
from inscape.explore.codec_routes import CodecAnswers

SENTENCE = "a red ball is on the blue block"
POSTS = ("encode", "read", "paraphrase", "compare", "interpolate", "sample")


@pytest.fixture(scope="module")
def codec() -> VisualCodec:
    return VisualCodec.from_pretrained()


@pytest.fixture(scope="module")
def client(codec: VisualCodec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = build_app(codec, tmp_path_factory.mktemp("runs"), about="weights.safetensors")
    with TestClient(app, base_url="http://127.0.0.1:8765") as client:
        yield client


def post(client: TestClient, name: str, **fields: Any) -> dict[str, Any]:
    response = client.post(f"/api/{name}", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, name: str, **fields: Any) -> dict[str, str]:
    response = client.post(f"/api/{name}", json=fields)
    assert response.status_code == 400
    answer = response.json()
    assert set(answer) == {"error", "field"}
    assert "\n" not in answer["error"]
    return answer


def wire(latent: Any) -> str:
    return base64.b64encode(np.asarray(latent, dtype="<f4").tobytes()).decode()


# --- what is asked of the codec ---


def test_the_codec_says_what_it_is(client: TestClient):
    about = client.get("/api/codec").json()
    assert about["shape"] == [6, 32, 32]
    assert about["weights"] == "weights.safetensors"
    assert "ball" in about["words"]
    assert about["bands"]["spectral_slope"]["low"] == 1.87


def test_a_sentence_is_encoded_and_read_back(client: TestClient, codec: VisualCodec):
    answer = post(client, "encode", sentence=SENTENCE)
    found = np.frombuffer(base64.b64decode(answer["latent"]), dtype="<f4").reshape(6, 32, 32)
    np.testing.assert_allclose(found, codec.encode([SENTENCE])[0].numpy(), atol=1e-5)
    assert answer["reading"]["sentence"] == SENTENCE
    assert answer["warning"] == ""
    assert answer["scene"] == answer["reading"]["scene"]
    assert [d["kind"] for d in answer["difference"]] == ["same"]
    assert len(answer["statistics"]["channels"]) == 6


def test_what_the_codec_forgives_is_no_difference(client: TestClient):
    answer = post(client, "encode", sentence="A red  ball is on the blue block.")
    assert [d["kind"] for d in answer["difference"]] == ["same"]


def test_a_sentence_half_typed_keeps_nobody_waiting(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    sampled = VisualCodec.paraphrase_each

    def counted(self: VisualCodec, sentences: Any, n: int, seed: int, rounds: int) -> Any:
        drawn.append(rounds)
        return sampled(self, sentences, n, seed, rounds)

    monkeypatch.setattr(VisualCodec, "paraphrase_each", counted)
    assert post(client, "paraphrase", sentence="a red ba")["paraphrases"] == []
    assert len(post(client, "paraphrase", sentence=SENTENCE)["paraphrases"]) == 5
    assert drawn == [2]


def test_other_english_is_encoded_with_a_doubt(client: TestClient):
    answer = post(client, "encode", sentence="the weather is fine")
    assert "'weather' is not one of the" in answer["warning"]
    assert "unknown" in answer["warning"]
    assert answer["scene"] is None


def test_a_touched_latent_says_what_changed(client: TestClient, codec: VisualCodec):
    latent, other = codec.encode([SENTENCE, "a green ball is on the blue block"]).numpy()
    answer = post(client, "read", latent=wire(other), original=wire(latent))
    assert answer["reading"]["sentence"] == "a green ball is on the blue block"
    assert {"kind": "changed", "was": "red", "now": "green"} in answer["difference"]
    assert answer["cosine"] == pytest.approx(codec.similarity(SENTENCE, "a green ball is on the blue block"), abs=1e-4)
    assert post(client, "read", latent=wire(latent), original=wire(latent))["cosine"] == pytest.approx(1)
    assert "cosine" not in post(client, "read", latent=wire(latent))


def test_paraphrases_are_the_codecs_with_their_round_trips(client: TestClient, codec: VisualCodec):
    rows = post(client, "paraphrase", sentence=SENTENCE, n=3, seed=2)["paraphrases"]
    assert [row["text"] for row in rows] == codec.paraphrase(SENTENCE, 3, seed=2)
    assert [row["cosine"] for row in rows] == sorted((row["cosine"] for row in rows), reverse=True)


def test_two_sentences_are_compared(client: TestClient, codec: VisualCodec):
    answer = post(client, "compare", first=SENTENCE, second="the blue block is on a red ball")
    assert answer["edit"] == "arguments"
    assert answer["cosine"] == pytest.approx(codec.similarity(SENTENCE, "the blue block is on a red ball"), abs=1e-4)
    assert answer["second"]["reading"]["sentence"] == "the blue block is on a red ball"


def test_the_way_between_two_sentences(client: TestClient, codec: VisualCodec):
    other = "two small green cones are next to the large yellow cylinder"
    steps = post(client, "interpolate", first=SENTENCE, second=other, steps=5)["steps"]
    assert [step["sentence"] for step in steps] == codec.interpolate(SENTENCE, other, 5)
    assert [step["share"] for step in steps] == [0, 0.25, 0.5, 0.75, 1]
    assert steps[0]["cosine_first"] == pytest.approx(1)
    assert steps[-1]["cosine_second"] == pytest.approx(1)


# --- bad input ---


@pytest.fixture(scope="module")
def sampling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The page of a codec with a latent prior beside it, which has learned nothing."""
    folder = tmp_path_factory.mktemp("with_prior")
    with TestClient(build_app(sampling_codec(folder), folder / "runs"), base_url="http://127.0.0.1:8765") as client:
        yield client


def test_a_latent_is_drawn_out_of_noise_and_read(sampling: TestClient, tmp_path: Path):
    assert sampling.get("/api/codec").json()["samples"] is True
    answer = post(sampling, "sample", seed=3, steps=2)
    assert set(answer) == {"latent", "statistics", "reading"}
    drawn = sampling_codec(tmp_path).sample(1, steps=2, seed=3)
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(answer["latent"]), "<f4"), drawn.latents.numpy().ravel())
    assert answer["reading"]["sentence"] == drawn.sentences[0]
    assert post(sampling, "sample", seed=3, steps=2) == answer
    assert post(sampling, "sample", seed=4, steps=2)["latent"] != answer["latent"]


def test_what_cannot_be_drawn_is_refused(client: TestClient, sampling: TestClient):
    for fields, field in (
        ({"seed": -1}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": 101}, "steps"),
    ):
        assert refused(sampling, "sample", **fields)["field"] == field
    assert "allowed: seed, steps" in refused(sampling, "sample", n=1)["error"]
    assert client.get("/api/codec").json()["samples"] is False
    assert "there is no latent prior beside these weights" in refused(client, "sample")["error"]


@pytest.mark.parametrize("spoilt", [b"no safetensors", None])
def test_a_prior_that_is_damaged_or_gone_names_no_path_of_this_machine(spoilt: bytes | None, tmp_path: Path):
    codec = sampling_codec(tmp_path)
    (prior,) = tmp_path.glob("*prior.safetensors")
    prior.unlink() if spoilt is None else prior.write_bytes(spoilt)
    with TestClient(build_app(codec, tmp_path / "runs"), base_url="http://127.0.0.1:8765") as client:
        assert refused(client, "sample") == {
            "error": "the latent prior beside these weights cannot be drawn from; start the page again to see why",
            "field": "",
        }


def test_each_field_names_itself(client: TestClient):
    assert refused(client, "encode", sentence="")["field"] == "sentence"
    assert refused(client, "compare", first=SENTENCE, second=" ")["field"] == "second"
    assert refused(client, "read", latent="AAAA")["field"] == "latent"
    assert refused(client, "paraphrase", sentence=SENTENCE, n=21)["field"] == "n"
    assert refused(client, "interpolate", first=SENTENCE, second=SENTENCE, steps=1)["field"] == "steps"
    assert refused(client, "encode", words=1)["error"] == "the field 'words' is not known; allowed: sentence"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("paraphrase", {"sentence": SENTENCE, "n": "\ud800"}),
        ("paraphrase", {"sentence": SENTENCE, "seed": ["\ud800"]}),
        ("interpolate", {"first": SENTENCE, "second": SENTENCE, "steps": "\ud800"}),
        ("encode", {"sentence": "a \ud800 ball"}),
        ("encode", {"\ud800": 1}),
    ],
)
def test_half_a_surrogate_pair_is_refused_like_anything_else(client: TestClient, name: str, fields: dict[str, Any]):
    body, headers = json.dumps(fields), {"Content-Type": "application/json"}  # in ASCII: it has no other form
    response = client.post(f"/api/{name}", content=body, headers=headers)
    assert response.status_code == 400
    assert "\\n" not in response.json()["error"]
    assert response.text.isascii()


def test_a_file_of_weights_may_have_any_name(codec: VisualCodec, tmp_path: Path):
    with TestClient(build_app(codec, tmp_path, about="w\udcff"), base_url="http://127.0.0.1:8765") as client:
        assert client.get("/api/codec").json()["weights"] == "w\udcff"


def test_a_sentence_too_long_is_refused_and_takes_none_with_it(client: TestClient):
    answer = refused(client, "compare", first=SENTENCE, second="a red ball " * 60)
    assert answer["field"] == "second"
    assert "182 tokens" in answer["error"]
    assert post(client, "paraphrase", sentence="a red ball " * 60)["warnings"]


def test_a_body_too_large_is_refused(client: TestClient):
    response = client.post("/api/encode", json={"sentence": "a" * LARGEST_BODY})
    assert response.status_code == 413
    assert "larger than 256 KiB" in response.json()["error"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["sentence", "latent", "original", "n", "seed", "first", "second", "steps", "x"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(POSTS), fields=st.dictionaries(names, anything, max_size=4))
def test_no_body_is_a_fault_of_ours(client: TestClient, name: str, fields: dict[str, Any]):
    response = client.post(f"/api/{name}", json=fields)
    assert response.status_code in (200, 400)
    assert "Traceback" not in response.text
    if response.status_code == 400:
        assert set(response.json()) == {"error", "field"}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(POSTS), body=st.binary(max_size=200))
def test_no_bytes_are_a_fault_of_ours(client: TestClient, name: str, body: bytes):
    response = client.post(f"/api/{name}", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert "error" in response.json()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(latent=st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4))
def test_any_numbers_can_be_read(client: TestClient, latent: list[float]):
    answer = post(client, "read", latent=wire(np.resize(latent, 6 * 32 * 32)))
    json.dumps(answer, allow_nan=False)


# --- what guards it ---


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "192.168.0.7", "[::1", "localhost.evil"]
)
def test_another_name_of_this_host_is_refused(client: TestClient, host: str):
    response = client.get("/api/codec", headers={"Host": host})
    assert response.status_code == 400
    assert "its own address" in response.json()["error"]


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:1", "LOCALHOST", "[::1]:8765", "127.0.0.1"])
def test_loopbacks_names_are_answered(client: TestClient, host: str):
    assert client.get("/api/codec", headers={"Host": host}).status_code == 200


def test_a_name_that_was_given_is_answered(codec: VisualCodec, tmp_path: Path):
    with TestClient(build_app(codec, tmp_path, hosts=["Lab.example"]), base_url="http://lab.example") as client:
        assert client.get("/api/codec").status_code == 200
        assert client.get("/api/codec", headers={"Host": "10.0.0.3:8765"}).status_code == 200
        assert client.get("/api/codec", headers={"Host": "evil.example"}).status_code == 400
    assert hosts_of("192.168.0.7") == ["192.168.0.7"]
    assert len(hosts_of("0.0.0.0")) == 2
    assert hosts_of("") == [""], "which is no name of every address: `serve` refuses it"


def test_a_post_of_another_page_is_refused(client: TestClient):
    body = {"sentence": SENTENCE}
    foreign = client.post("/api/encode", json=body, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    for strange in ("http://[", "null", "http://127.0.0.1:8765@evil.example", "\u00e9"):
        assert client.post("/api/encode", json=body, headers={"Origin": strange.encode()}).status_code == 403
    own = client.post("/api/encode", json=body, headers={"Origin": "http://127.0.0.1:8765"})
    assert own.status_code == 200
    form = client.post("/api/encode", content=b"{}", headers={"Content-Type": "text/plain"})
    assert form.status_code == 415, "what a form of another page could send without being asked"


def test_wrong_addresses_and_methods_are_answered_in_json(client: TestClient):
    for response, status in (
        (client.get("/nothing/here"), 404),
        (client.get("/static/../app.py"), 404),
        (client.get("/static/nothing.js"), 404),
        (client.get("/api/encode"), 405),
        (client.delete("/api/codec"), 405),
    ):
        assert response.status_code == status
        assert "error" in response.json()


def test_every_answer_keeps_the_page_to_itself(client: TestClient):
    for address in ("/", "/static/page.css", "/api/codec", "/nothing"):
        headers = client.get(address).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_weighs_little_and_names_no_other_host():
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    for path in files:
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", path.read_text()))
        assert {a for a in addresses if "www.w3.org" not in a} == set(), path.name
        assert "eval(" not in path.read_text()


def test_every_file_that_the_page_asks_for_is_there(client: TestClient):
    page = client.get("/").text
    asked = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
    assert len(asked) >= 3
    for address in asked:
        assert client.get(f"/{address}").status_code == 200
    for script in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', script.read_text()):
            assert (STATIC / name).is_file(), f"{script.name} imports {name}"


def test_paraphrases_asked_for_at_the_same_time_are_all_right(codec: VisualCodec):
    texts = [SENTENCE, "two small green cones are next to the large yellow cylinder", "the weather is fine"]
    answers = CodecAnswers(codec, "")
    found = answers._paraphrase_all([(text, 4, 0) for text in [*texts, "a red ball " * 60]])
    answers.close()
    assert found[3]["paraphrases"] == []
    for text, answer in zip(texts[:2], found[:2], strict=True):
        rows = [row["text"] for row in answer["paraphrases"]]
        assert len(set(rows)) == 4
        assert {parse(row) for row in rows} == {parse(text)}
        assert text not in rows
    assert any("'weather'" in said for said in found[2]["warnings"])


def test_those_that_ask_alike_are_sampled_together(codec: VisualCodec, monkeypatch: pytest.MonkeyPatch):
    drawn = []

    def counted(self: VisualCodec, sentences: list[str], n: int, seed: int, rounds: int) -> Any:
        drawn.append((sentences, n, seed))
        if "too long" in sentences:
            raise ValueError("sentence 1 is too long")
        return [[(f"{sentence} otherwise", 0.5)] for sentence in sentences]

    monkeypatch.setattr(VisualCodec, "paraphrase_each", counted)
    monkeypatch.setattr(VisualCodec, "doubts", lambda self, sentence: "odd" if "odd" in sentence else "")
    answers = CodecAnswers(codec, "")
    asked = [("a", 5, 0), ("odd", 5, 0), ("b", 5, 1), ("c", 5, 0), ("too long", 3, 0), ("d", 3, 0), ("e", 5, 1)]
    found = answers._paraphrase_all(asked)
    answers.close()
    assert drawn[:2] == [(["a", "c"], 5, 0), (["b", "e"], 5, 1)]
    assert drawn[2:] == [(["too long", "d"], 3, 0), (["too long"], 3, 0), (["d"], 3, 0)]
    assert str(found[4]) == "sentence is too long"
    assert found[1] == {"paraphrases": [], "warnings": ["odd", "0 of the 5 paraphrases asked for were found"]}
    texts = [answer["paraphrases"][0]["text"] for i, answer in enumerate(found) if i not in (1, 4)]
    assert texts == ["a otherwise", "b otherwise", "c otherwise", "d otherwise", "e otherwise"]
