"""P0 to P4 on text files, end to end at the smoke preset: groups of paraphrases and single sentences; P5 is skipped.

The pictures of latents are left out: they take most of the time, and the contract's smoke run draws them.
"""

import numpy as np
import pytest

from inscape.core.rundir import RunDir
from inscape.core.runner import Request, resume, run_study
from inscape.core.study import SMOKE
from inscape.studies import study
from inscape.studies.visual import codec_training, decoder, imageness, jitter, meaning
from inscape.studies.visual.sources import DataConfig, open_source
from inscape.studies.visual.text_meaning import one_of_each_group

VISUAL = study("visual")
WORDS = ["dog", "cat", "bird", "runs", "sleeps", "sings", "slowly", "loudly", "big", "small", "red", "blue"]
CODES = ["P0", "P1", "P2", "P3", "P4"]


class World:
    """A text file, the runs on it, and what was said."""

    def __init__(self, folder, name: str, columns: int) -> None:
        rng = np.random.default_rng(0)
        rows = [["the " + " ".join(rng.choice(WORDS, 5)) for _ in range(columns)] for _ in range(1600 // columns)]
        (folder / name).write_text("\n".join("\t".join(row) for row in rows))
        self.request = Request(
            preset=SMOKE, device="cpu", root=folder / "runs", overrides=(f"data.text={folder / name}",)
        )
        self.said: list[str] = []
        self.runs = dict(zip(CODES, self.run(*VISUAL.phases), strict=True))

    def run(self, *phases) -> list[RunDir]:
        return run_study(VISUAL, phases, self.request, self.said.append, lambda run: None)


@pytest.fixture(scope="module", params=[("groups.tsv", 2), ("plain.txt", 1)], ids=["tsv", "plain"])
def world(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for phase in (imageness, meaning, jitter, decoder):
            patch.setattr(phase, "draw_latents", lambda *_: None)
        for training in (imageness, codec_training):
            patch.setattr(training, "draw_step", lambda *_: None)
        yield World(tmp_path_factory.mktemp("world"), *request.param)


def test_all_phases_run_and_those_that_need_a_parser_say_why_they_do_not(world):
    for code, what in (("P5", "what is right"), ("P6", "which samples are sentences")):
        assert f"visual.{code} is skipped: it needs the scene grammar, whose parser says {what}" in world.said


@pytest.mark.parametrize("code", CODES)
def test_what_the_gate_of_the_file_asks_was_measured(world, code):
    run, phase = world.runs[code], VISUAL.phase(code)
    metrics = run.read_json(RunDir.METRICS)
    asked = {criterion["metric"] for criterion in run.read_json(RunDir.GATE)}
    assert asked <= {name for name, estimate in metrics.items() if estimate["low"] is not None and estimate["n"]}
    if code in ("P2", "P3", "P4"):
        assert asked != {criterion.metric for criterion in phase.gate.criteria}, "a gate of its own"
        assert not any(name.startswith(("told_apart", "scene_exact")) for name in metrics)


def test_a_file_of_groups_is_searched_and_one_of_sentences_is_not(world):
    searched = "recall_at_1" in world.runs["P2"].read_json(RunDir.METRICS)
    assert searched == world.request.overrides[0].endswith(".tsv")


def test_what_is_read_back_is_one_sentence_of_each_group(world):
    source = open_source(DataConfig(text=world.request.overrides[0].removeprefix("data.text=")))
    sentences = one_of_each_group(source, 10_000)
    pairs = source.held_out_pairs(10_000)
    assert bool(pairs) == world.request.overrides[0].endswith(".tsv")
    assert sentences == ([first for first, _ in pairs] if pairs else source.held_out(10_000))
    assert len(sentences) > 15


def test_p2_interrupted_and_resumed_measures_what_it_would_have(world, monkeypatch):
    terms = codec_training.objective_terms

    def torn(model, batch, step, *rest):
        if step == 3:
            raise KeyboardInterrupt
        return terms(model, batch, step, *rest)

    before = set(world.request.root.rglob("P2/smoke/*"))
    monkeypatch.setattr(codec_training, "objective_terms", torn)
    with pytest.raises(KeyboardInterrupt, match="continue with: inscape resume"):
        world.run(VISUAL.phase("P2"))
    monkeypatch.undo()
    (path,) = set(world.request.root.rglob("P2/smoke/*")) - before
    run = RunDir.open(path)
    assert not run.finished
    resume(VISUAL, run, lambda run: None)
    assert run.read_json(RunDir.METRICS) == world.runs["P2"].read_json(RunDir.METRICS)
