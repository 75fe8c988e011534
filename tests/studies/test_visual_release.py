"""Weights for the package: small, in half precision, with a card made of what the runs measured."""

import json
import re

import pytest
import torch
from safetensors import safe_open

from inscape.codec import SHIPPED, OutOfGrammar, VisualCodec
from inscape.core.estimate import exact, proportion
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.studies.visual.model import CODEC_WEIGHTS, TrainedCodec, load_codec, save_codec
from inscape.studies.visual.paraphrasing import meaning_of
from inscape.studies.visual.release import card, limits, main
from inscape.studies.visual.sources import DataConfig, open_source

GATE = Gate([Criterion("found", at_least=0.5), Criterion("found", at_least=0.9, source="calibrated")])


def finished(root, phase, inputs, metrics, **env):
    run = RunDir.create(root, "visual", phase, "small", "0a1b2c3d", 0)
    asked = {"format": 1, "study": "visual", "phase": phase, "preset": "small", "seed": 0, "device": "cpu"}
    asked |= {"overrides": {}, "remedies": [], "despite_gate": None, "git_commit": "c0ffee", "fingerprint": "0a1b2c3d"}
    run.write_json(RunDir.ENV, asked | env | {"inputs": {code: str(of.path) for code, of in inputs.items()}})
    run.write_json(RunDir.GATE, GATE.to_json())
    run.write_json(RunDir.METRICS, {name: estimate.to_json() for name, estimate in metrics.items()})
    run.write_json(RunDir.VERDICT, GATE.judge(metrics).to_json())
    return run


def test_the_card_tells_gates_and_figures_and_the_weights_load(tmp_path):
    tokenizer = open_source(DataConfig()).tokenizer
    sizes = LatentEncoderConfig(vocab=tokenizer.vocab_size, d=16, layers=1, heads=2, ffn=16, head="light", coarse=4)
    model = LatentCodec(sizes, LatentCodecConfig(d=16, heads=2, ffn=16, patch=8, reader_layers=0, decoder_layers=1))
    first = finished(tmp_path / "runs", "P4", {}, {"found": exact(1.0, 9, "scenes")})
    measured = {"found": exact(0.6, 9, "scenes"), "graph_f1_2_facts": proportion(3, 4, "scenes")}
    last = finished(tmp_path / "runs", "P5", {"P4": first}, measured)
    save_codec(TrainedCodec(model, tokenizer), last.path / CODEC_WEIGHTS)
    assert main([str(last.path), "--out", str(tmp_path)]) == 0
    card = (tmp_path / "visual-small.md").read_text()
    assert f"| P4 | PASS | PASS | {first.path.name} | c0ffee |\n| P5 | PASS | FAIL | {last.path.name} |" in card
    assert f"* Weights: {sum(p.numel() for p in model.parameters()):,} parameters" in card
    assert "| graph f1 2 facts | 0.7500 [" in card
    assert "c0ffee" in card
    shipped = load_codec(tmp_path / "visual-small.safetensors")
    for name, value in shipped.model.state_dict().items():
        assert torch.allclose(value, model.state_dict()[name], atol=2e-3, rtol=2e-3), name
    assert (tmp_path / "visual-small.safetensors").stat().st_size < 0.6 * (last.path / CODEC_WEIGHTS).stat().st_size


@pytest.fixture
def ladder(tmp_path):
    """Makes P4 and P5 with changes of what P4 was asked for; returns P5."""
    tokenizer = open_source(DataConfig()).tokenizer
    sizes = LatentEncoderConfig(vocab=tokenizer.vocab_size, d=16, layers=1, heads=2, ffn=16, head="light", coarse=4)
    model = LatentCodec(sizes, LatentCodecConfig(d=16, heads=2, ffn=16, patch=8, reader_layers=0, decoder_layers=1))

    def make(**env):
        good = {"found": exact(1.0, 9, "scenes")}
        first = finished(tmp_path / "runs", "P4", {"P0": finished(tmp_path / "runs", "P0", {}, good)}, good, **env)
        last = finished(tmp_path / "runs", "P5", {"P4": first}, good)
        save_codec(TrainedCodec(model, tokenizer), last.path / CODEC_WEIGHTS)
        return last

    return make


def commands(text):
    return re.findall(r"^      (.*)$", text, re.M)


def test_the_card_has_a_command_for_each_run_that_made_the_weights(ladder):
    plain = [f"inscape run visual.{phase} --preset small --seed 0" for phase in ("P0", "P4", "P5")]
    text = card(ladder())
    assert commands(text) == plain
    assert "| P0 |" not in text, "its gate is about the corpus"
    changed = ladder(
        overrides={"training.fit.lr": 0.001, "others": "a b.txt"},
        remedies=[1, 0],
        about={"remedies": ["let the encoder move", "train longer"]},
    )
    asked = f"{plain[1]} training.fit.lr=0.001 'others=a b.txt' --remedy  # taken: train longer; let the encoder move"
    assert commands(card(changed)) == [plain[0], asked, plain[2]]


def test_no_card_is_made_of_a_run_that_was_pushed_past_a_gate(ladder, tmp_path, capsys):
    last = ladder(despite_gate="to see")
    assert main([str(last.path), "--out", str(tmp_path / "weights")]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"release: \S+ was pushed past a shut gate \(to see\); give a run whose gates were open\n", said
    )
    assert not (tmp_path / "weights").exists()


def test_the_card_says_which_sentences_are_mostly_not_read_back():
    figures = {
        "sentence_exact_1_fact": "0.9998 [0.9991, 1.0000], n = 6000",
        "sentence_exact_3_facts": "0.1107 [0.1, 0.2]",
    }
    said = limits(figures)
    assert "three facts are mostly not read back: 0.11 of them" in said
    assert "one fact are" not in said
    assert "mostly" not in limits(figures | {"sentence_exact_3_facts": "0.9 [0.8, 1]"})


def test_the_shipped_card_is_in_the_weights_and_promises_only_what_holds():
    with safe_open(SHIPPED, "pt") as opened:
        card = opened.metadata()["about"]
    assert card == SHIPPED.with_suffix(".md").read_text()
    assert "what comes back is\nnot to be relied on" in card
    sizes = re.search(r"three facts are mostly not read back: (0\.\d\d) of them", card)
    exact = re.search(r"sentence exact 3 facts \| (0\.\d{4})", card)
    assert exact
    assert sizes is None or float(exact[1]) < 0.5, "said where it is so, and only there"
    assert (sizes is not None) == (float(exact[1]) < 0.5)
    codec = VisualCodec.from_pretrained(SHIPPED)
    with pytest.warns(OutOfGrammar):
        latents = codec.encode(
            ["the cat sat on the mat", "stock prices fell sharply", "hello", "where is my red ball?"]
        )
    assert not all(map(meaning_of, codec.decode(latents))), "and so the card must not promise sentences of the grammar"
    assert all(map(meaning_of, codec.decode(latents, constrained=True)))


def test_what_is_no_run_is_refused_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("release: ")
    assert said.count("\n") == 1
    assert json.dumps(list(tmp_path.iterdir())) == "[]", "nothing was written"
