"""What a training leaves of its course: pictures at a few evaluations, and every number as a table."""

import csv
from itertools import pairwise
from pathlib import Path

import pytest

from inscape.core.estimate import Estimate
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, run_study
from inscape.core.study import SMOKE
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.studies.visual.drawing import MOST_DRAWN, draw_step, is_drawn
from inscape.studies.visual.model import TextToLatent
from inscape.studies.visual.sources import DataConfig, open_source
from inscape.studies.visual.study import STUDY
from inscape.studies.visual.summary import METRICS_CSV, write_summary
from inscape.train import FitConfig, FitResult

SOURCE = open_source(DataConfig(facts=1))


def fit_of(steps: int, every: int) -> FitConfig:
    return FitConfig(steps=steps, warmup_steps=0, eval_every=every)


@pytest.mark.parametrize(
    ("steps", "every", "drawn"),
    [
        (4, 2, [2]),
        (60, 30, [30]),
        (500, 100, [100, 200, 300, 400]),
        (17, 5, [5, 10, 15]),
        (2, 2, []),
        (10, 0, []),
        (50_000, 500, None),
        (3000, 200, None),
        (50_000, 7, None),
    ],
)
def test_a_few_evaluations_are_drawn_and_not_the_last(steps: int, every: int, drawn: list[int] | None):
    evaluations = sorted({*range(every, steps, every), steps}) if every else [steps]
    found = [step for step in evaluations if is_drawn(step, fit_of(steps, every))]
    if drawn is not None:
        assert found == drawn
        return
    assert len(found) == MOST_DRAWN
    assert found[-1] == evaluations[-2], "the one before the last, whose pictures are those of the end"
    apart = [b - a for a, b in pairwise(found)]
    assert max(apart) - min(apart) <= every, "evenly spread"


def test_a_drawn_evaluation_leaves_two_pictures_apart_from_those_of_the_end(tmp_path: Path):
    sizes = LatentEncoderConfig(
        vocab=SOURCE.tokenizer.vocab_size, d=16, layers=1, heads=2, ffn=16, head="light", coarse=4
    )
    encoder = TextToLatent(LatentEncoder(sizes).eval(), SOURCE.tokenizer)
    for step in (50, 100):
        draw_step(RunDir(tmp_path), encoder, SOURCE.montage, step, fit_of(100, 50))
    assert sorted(file.name for file in (tmp_path / "figures/steps").iterdir()) == [
        "step_000050_montage.png",
        "step_000050_spectra.png",
    ]
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["steps"], "the report shows what lies here"


def test_a_phase_draws_its_course_and_tables_its_numbers(tmp_path: Path):
    wish = Request(preset=SMOKE, device="cpu", root=tmp_path)
    phases = [STUDY.phase(code) for code in ("P0", "P1")]
    _, run = run_study(STUDY, phases, wish, lambda _: None, lambda _: None)
    before_the_last = [line["step"] for line in run.read_log() if line["kind"] == "eval"][:-1]
    assert {file.name for file in (run.path / "figures/steps").iterdir()} == {
        f"step_{step:06d}_{what}.png" for step in before_the_last for what in ("montage", "spectra")
    }
    assert before_the_last
    rows = list(csv.DictReader((run.path / METRICS_CSV).read_text().splitlines()))
    metrics = run.read_json(RunDir.METRICS)
    final = {row["metric"]: row for row in rows if row["kind"] == "final"}
    assert final.keys() == metrics.keys()
    assert all(float(final[name]["value"]) == e["value"] for name, e in metrics.items() if e["value"] is not None)
    logged = [line for line in run.read_log() if line["kind"] == "eval"]
    assert [float(row["value"]) for row in rows if row["kind"] == "evaluation" and row["metric"] == "tv"] == [
        line["tv"] for line in logged
    ]


def test_the_table_has_intervals_and_leaves_empty_what_was_not_measured(tmp_path: Path):
    result = FitResult(None, None, 4, 1.0, [{"step": 2, "values": {"tv": 3.5}}])  # type: ignore[arg-type]
    unknown = Estimate(float("nan"), float("nan"), float("nan"), 0, "scenes")
    metrics = {"recall, at 1": Estimate(0.5, 0.25, 0.75, 8, "scenes"), "unknown": unknown}
    write_summary(RunDir(tmp_path), result, SOURCE, metrics)
    assert (tmp_path / METRICS_CSV).read_text().splitlines() == [
        "kind,step,metric,value,low,high,n,unit",
        "evaluation,2,tv,3.5,,,,",
        'final,4,"recall, at 1",0.5,0.25,0.75,8,scenes',
        "final,4,unknown,,,,0,scenes",
    ]
