"""`inscape config audio-fusion.phase1` shows the plan's two configs side by side, and what they really train."""

import sys
from dataclasses import replace

import pytest
import yaml

from inscape.cli import main
from inscape.studies import study

FULL = """\
# the plan's table (preset full)
#                           baseline                phase1
#   LoRA rank               8                       64
#   audio tokens            16                      32
#   fusion layers           6, 12, 24               8, 16, 24, 32
#   fusion kind             lora_cross_attention    lora_cross_attention
#   projector scale         2                       10
#   residual gate at first  0.05                    0.3
#   residual gate at most   0.3                     1
#   gate warm-up            2000 steps              off
#   lr projector            0.0002                  0.001
#   lr adapter              0.0001                  0.0005
"""
COUNTS = """\
# trained parameters of preset full on LLaVA-1.5-13B in millions, counted, and in brackets the plan's claim
#   projector               84.49 (84.50)           168.46 (168.00)
#   fusion                  0.74 (0.16)             7.86 (10.50)
#   total                   85.23 (189.60)          176.33 (380.00)
"""


def shown(capsys: pytest.CaptureFixture, *words: str) -> str:
    assert main(["config", "audio-fusion.phase1", *words]) == 0
    return capsys.readouterr().out


def test_the_plans_table_and_true_counts_stand_under_the_config(capsys: pytest.CaptureFixture) -> None:
    out = shown(capsys, "--preset", "full")
    assert out.endswith(FULL + COUNTS)
    assert yaml.safe_load(out)["phase1"]["fusion"]["rank"] == 64, "it is YAML as before"


def test_without_a_preset_the_plans_table_comes_first_and_the_shown_presets_behind(capsys) -> None:
    out = shown(capsys)
    assert FULL in out
    _, behind = out.split(FULL)
    assert behind.startswith("# the same with the values above, which are not the plan's\n")
    assert "#   LoRA rank               4                       32\n" in behind
    assert behind.endswith(COUNTS)


@pytest.mark.parametrize("preset", ["quick", "small", "full"])
def test_phase_2_is_wider_than_phase_1_and_its_remedy_wider_still(preset: str) -> None:
    first, second = (study("audio-fusion").phase(code) for code in ("phase1", "phase2"))
    before, config = first.preset(preset).listener.projector, second.preset(preset).listener.projector
    (remedy,) = second.remedies
    after = remedy.applied_to(second.preset(preset)).listener.projector
    if preset == "full":
        assert (before.bottleneck, config.bottleneck, after.bottleneck) == (1024, 0, 4096)
    else:
        assert (config.bottleneck, after.bottleneck) == (2 * before.bottleneck, 4 * before.bottleneck)
    assert config == replace(before, bottleneck=config.bottleneck), "nothing else"


def test_the_table_follows_the_config_and_needs_no_package(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    out = shown(capsys, "--preset", "full", "phase1.fusion.rank=16")
    assert FULL in out
    assert "#   LoRA rank               8                       16\n" in out
    assert "needs the package transformers" in out.splitlines()[-1]
