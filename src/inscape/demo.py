"""`./inscape demo`: the main job on real input, and what to look at afterwards.

It runs the visual study with the quick preset, then shows the verdicts, some sentences with their latents, and where
the report lies. It is `inscape run visual --preset quick` with a guided tour; nothing here is measured or decided.
"""

import sys
from pathlib import Path

from inscape.cli import main as inscape
from inscape.core.rundir import find_runs

__all__ = ["main"]

RUNS = Path("runs")
SENTENCES = (
    "a red ball is on the blue block",
    "the blue block supports a red ball",
    "a blue ball is on the red block",
)


def main() -> int:
    """Run the demo; returns the exit status."""
    status = inscape(["run", "visual", "--preset", "quick", "--out", str(RUNS)])
    runs = [run for run in find_runs(RUNS, "visual", "P1", "quick") if run.finished]
    if status or not runs:
        return status
    picture = RUNS / "demo.png"
    words = ["encode", *SENTENCES, "--weights", str(runs[-1].path), "--out", str(RUNS / "demo.safetensors")]
    status = inscape([*words, "--png", str(picture)])
    print(
        f"\nSee the latents:      {picture}\n"
        f"Read the report:      {runs[-1].path / runs[-1].REPORT}\n"
        f"All runs, all gates:  {RUNS / 'index.html'}, or ./inscape status\n"
        "Your own sentences:   ./inscape encode 'a green cone is left of two small stars' --png picture.png\n"
        "Your own text:        ./inscape run visual data.text=FILE"
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
