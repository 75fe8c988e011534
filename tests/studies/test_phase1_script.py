"""The script for SLURM: the plan's variables reach the config, and what is not set leaves the preset alone."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from inscape.core.config import with_overrides
from inscape.studies import study

SCRIPT = Path(__file__).parents[2] / "scripts" / "phase1_training.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def told(**variables: str) -> subprocess.CompletedProcess:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["bash", str(SCRIPT)],
        env=environment | {"DRY_RUN": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def commands(**variables: str) -> list[list[str]]:
    done = told(**variables)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_without_variables_the_plans_preset_runs_as_it_is() -> None:
    lines = commands()
    assert [line[2] for line in lines] == ["audio-fusion.identity", "audio-fusion.connectivity", "audio-fusion.phase1"]
    assert all(line[3:] == ["--preset", "full", "--out", "runs"] for line in lines)


def test_the_plans_variables_reach_the_config() -> None:
    *_, last = commands(
        MODEL_CONFIG="full",
        LR_PROJECTOR="3e-4",
        LR_ADAPTER="2e-4",
        NUM_EPOCHS="7",
        TRAIN_BS="2",
        GRADIENT_ACCUMULATION_STEPS="64",
        PRESET="smoke",
    )
    overrides = [word for word in last[3:] if "=" in word]
    config = with_overrides(study("audio-fusion").phase("phase1").preset("smoke"), overrides)
    assert config.model == "baseline"
    assert (config.baseline.lr_projector, config.baseline.lr_adapter) == (3e-4, 2e-4)
    assert (config.training.epochs, config.training.batch, config.training.fit.accumulate) == (7, 2, 64)


def test_a_corpus_goes_to_every_phase_and_a_stopped_run_is_continued() -> None:
    lines = commands(SOUNDS="folder", CAPTIONS="train.csv", HELD_OUT_CAPTIONS="test.csv")
    wanted = ["data.path=folder", "data.captions=train.csv", "data.held_out_captions=test.csv"]
    assert all(line[-3:] == wanted for line in lines)
    resumed = commands(RESUME="runs/audio-fusion/connectivity/full/x")
    assert [line[1:3] for line in resumed] == [
        ["resume", "runs/audio-fusion/connectivity/full/x"],
        ["run", "audio-fusion.phase1"],
    ]
    assert len(commands(RESUME="runs/audio-fusion/phase1/full/x")) == 1


def test_an_unknown_config_is_refused_in_one_line() -> None:
    done = told(MODEL_CONFIG="phase9")
    assert done.returncode == 2
    assert done.stderr == "MODEL_CONFIG=phase9 is not known; allowed: phase1, baseline (or full)\n"
