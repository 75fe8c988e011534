"""The script for SLURM: the plan's variables reach the config, and what is not set leaves the preset alone."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from inscape.core.config import with_overrides
from inscape.studies import study
from inscape.studies.audio_fusion.identity import check_rates

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


@pytest.mark.parametrize("preset", ["quick", "small", "full"])
def test_two_learning_rates_are_possible_in_every_preset(preset: str) -> None:
    *_, last = commands(PRESET=preset, LR_PROJECTOR="1e-3", LR_ADAPTER="5e-4")
    phase = study("audio-fusion").phase("phase1")
    config = with_overrides(phase.preset(preset), [word for word in last[3:] if "=" in word])
    check_rates(config)
    assert config.training.fit.optimizer == "adamw"


@pytest.mark.parametrize("preset", ["quick", "small"])
@pytest.mark.parametrize(("given", "other"), [("LR_PROJECTOR", "LR_ADAPTER"), ("LR_ADAPTER", "LR_PROJECTOR")])
def test_one_rate_alone_is_refused_where_the_other_was_found_with_muon(preset: str, given: str, other: str) -> None:
    done = told(PRESET=preset, **{given: "5e-4"})
    assert done.returncode == 2
    assert done.stderr == f"{given}=5e-4 is out of range; allowed: at {preset} together with {other} only; give both\n"
    assert done.stdout == ""
    assert len(commands(PRESET="full", **{given: "5e-4"})) == 3, "full takes AdamW"


@pytest.mark.parametrize("adapter", ["1e-3", "0.001", "1.0E-03"])
def test_one_learning_rate_leaves_the_presets_optimizer(adapter: str) -> None:
    *_, last = commands(PRESET="quick", LR_PROJECTOR="1e-3", LR_ADAPTER=adapter)
    config = with_overrides(study("audio-fusion").phase("phase1").preset("quick"), [w for w in last[3:] if "=" in w])
    check_rates(config)
    assert config.training.fit.optimizer == "muon"


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


@pytest.mark.parametrize("dry_run", ["1", "0"])
@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LR_PROJECTOR", "fast", "a number above 0, up to 1, such as 1e-3"),
        ("LR_PROJECTOR", "0", "a number above 0, up to 1, such as 1e-3"),
        ("LR_ADAPTER", "-1e-3", "a number above 0, up to 1, such as 1e-3"),
        ("LR_ADAPTER", "1.5", "a number above 0, up to 1, such as 1e-3"),
        ("LR_ADAPTER", "1e999", "a number above 0, up to 1, such as 1e-3"),
        ("NUM_EPOCHS", "twenty", "a whole number from 0 to 10000"),
        ("NUM_EPOCHS", "10001", "a whole number from 0 to 10000"),
        ("NUM_EPOCHS", "2.5", "a whole number from 0 to 10000"),
        ("TRAIN_BS", "0", "a whole number from 1 to 4096"),
        ("TRAIN_BS", "08", "a whole number from 1 to 4096"),
        ("GRADIENT_ACCUMULATION_STEPS", "99999999999999999999", "a whole number from 1 to 1000000"),
        ("GRADIENT_ACCUMULATION_STEPS", "1 2", "a whole number from 1 to 1000000"),
    ],
)
def test_nonsense_is_refused_before_the_first_run(name: str, value: str, allowed: str, dry_run: str) -> None:
    done = told(**{name: value, "DRY_RUN": dry_run})
    assert done.returncode == 2
    assert done.stderr == f"{name}={value} is out of range; allowed: {allowed}\n"
    assert done.stdout == ""


def test_what_the_script_lets_through_the_config_takes() -> None:
    for name, value in (("LR_PROJECTOR", "1"), ("LR_ADAPTER", "0.5E-3"), ("NUM_EPOCHS", "0"), ("TRAIN_BS", "4096")):
        *_, last = commands(**{name: value, "PRESET": "full"})
        with_overrides(study("audio-fusion").phase("phase1").preset("full"), [w for w in last[3:] if "=" in w])
    assert len(commands(LR_PROJECTOR="", TRAIN_BS="")) == 3, "what is empty is not set"


@pytest.mark.parametrize(
    ("run", "phases"),
    [
        ("runs/audio-fusion/identity/full/x", ["connectivity", "phase1"]),
        ("audio-fusion/connectivity/full/x/", ["phase1"]),
        ("runs/identity/audio-fusion/phase1/full/x", []),
        ("runs/audio-fusion/identity/old/audio-fusion/phase1/full/x", []),
        ("connectivity/audio-fusion/identity/full/x", ["connectivity", "phase1"]),
    ],
)
def test_the_phase_of_a_stopped_run_is_read_at_its_place(run: str, phases: list[str]) -> None:
    first, *others = commands(RESUME=run)
    assert first[1:3] == ["resume", run]
    assert [line[2] for line in others] == [f"audio-fusion.{phase}" for phase in phases]
