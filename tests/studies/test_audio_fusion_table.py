"""`inscape config audio-fusion.phase1` shows the plan's two configs side by side, and what they really train."""

import sys

import pytest
import yaml

from inscape.cli import main

FULL = """\
# the plan's table, with the values above
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


def test_the_table_follows_the_config_and_needs_no_package(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    out = shown(capsys, "--preset", "full", "phase1.fusion.rank=16")
    assert "#   LoRA rank               8                       16\n" in out
    assert "needs the package transformers" in out.splitlines()[-1]
