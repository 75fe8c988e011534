"""`./inscape demo`: the main job on real input, and what to look at afterwards.

It climbs the visual study's ladder with the quick preset and one seed, then shows the verdicts, some sentences with
their latents and paraphrases, and where the report lies. Nothing here is measured or decided. Minutes of training on
one-fact scenes are too short for some gates; the demo walks past those, as its runs and reports say.
"""

import sys
from pathlib import Path

from inscape.cli import main as inscape
from inscape.codec import SHIPPED
from inscape.core.rundir import find_runs

__all__ = ["main"]

RUNS = Path("runs")
PHASES = ("P0", "P1", "P2", "P3", "P4", "P5")  # what comes after is optional, and takes longer than a demo should
DESPITE = "a demo of one seed, minutes long, shows every phase whatever the one before it says"
SENTENCES = (
    "a red ball is on the blue block",
    "the blue block supports a red ball",
    "a blue ball is on the red block",
)


def main() -> int:
    """Run the demo; returns the exit status."""
    words = ["--preset", "quick", "--seed", "0", "--out", str(RUNS), "--despite-gate", DESPITE]
    status = 0
    for phase in PHASES:
        status = status or inscape(["run", f"visual.{phase}", *words])
    runs = [run for run in find_runs(RUNS, "visual", "P5", "quick") if run.finished]
    if status or not runs:
        return status
    last, picture = runs[-1], RUNS / "demo.png"
    words = ["encode", *SENTENCES, "--weights", str(last.path), "--out", str(RUNS / "demo.safetensors")]
    status = inscape([*words, "--png", str(picture)])
    print("\nRead back from their pictures:")
    status = status or inscape(["decode", str(RUNS / "demo.safetensors"), "--weights", str(last.path)])
    print(f"\nOther words for {SENTENCES[0]!r}, by the model of these few minutes:")
    status = status or inscape(["paraphrase", SENTENCES[0], "--weights", str(last.path)])
    print(
        f"\nSee the latents:      {picture}\n"
        f"Read the report:      {last.path / last.REPORT}\n"
        f"All runs, all gates:  {RUNS / 'index.html'}, or ./inscape status\n"
        f"Touch the latents:    ./inscape explore --weights {last.path}\n"
        "Your own text:        ./inscape run visual data.text=FILE"
    )
    if SHIPPED.is_file():
        print("The shipped weights:  ./inscape explore, ./inscape paraphrase 'a green cone is left of two small stars'")
    return status


if __name__ == "__main__":
    sys.exit(main())
