"""`./inscape demo`: the main job on real input, and what to look at afterwards.

It climbs the visual study's ladder with the quick preset and one seed, then shows a table of the verdicts, some
sentences with their latents and paraphrases, and where the report lies. Nothing here is measured or decided. Minutes of
training on one-fact scenes are too short for some gates; the demo walks past those, as its runs and reports say.
"""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from inscape.cli import main as inscape
from inscape.codec import SHIPPED
from inscape.command_line import OneLineParser
from inscape.core.program import program
from inscape.core.rundir import RunDir, find_runs
from inscape.show import verdicts

__all__ = ["main"]

RUNS = Path("runs")
PHASES = ("P0", "P1", "P2", "P3", "P4", "P5")  # what comes after is optional, and takes longer than a demo should
DESPITE = "a demo of one seed, minutes long, shows every phase whatever the one before it says"
SENTENCES = (
    "a red ball is on the blue block",
    "the blue block supports a red ball",
    "a blue ball is on the red block",
)
CLOSING = (
    "\nMinutes of training are too few for what P2 to P5 ask: a FAIL of theirs above is expected.\n"
    "What the preset small reached, seed by seed, stands in results/README.md."
)


def main(given: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status. It takes no word but --help: another ends it in one line, status 2."""
    parser = OneLineParser(
        prog=f"{program()} demo",
        description="The visual study from P0 to P5, preset quick, one seed: 6 to 8 minutes on 2 cores. "
        f"It takes no options; what can be chosen: {program()} run --help",
    )
    parser.parse_args(sys.argv[1:] if given is None else given)
    words = ["--preset", "quick", "--seed", "0", "--out", str(RUNS), "--despite-gate", DESPITE]
    status, before = 0, {run.path for run in find_runs(RUNS, "visual")}
    for phase in PHASES:
        status = status or inscape(["run", f"visual.{phase}", *words])
    runs = [run for phase in PHASES if (run := _newest(phase, before))]
    if status or len(runs) < len(PHASES):
        return status
    print("\nWhat each phase said, and what did not pass:", flush=True)
    verdicts(runs)
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
        f"All runs, all gates:  {RUNS / 'index.html'}, or {program()} status\n"
        f"Touch the latents:    {program()} explore --weights {last.path}\n"
        f"Your own text:        {program()} run visual data.text=FILE"
    )
    if SHIPPED.is_file():
        print(
            f"The shipped weights:  {program()} explore, "
            f"{program()} paraphrase 'a green cone is left of two small stars'"
        )
    print(CLOSING)
    return status


def _newest(phase: str, before: Collection[Path]) -> RunDir | None:
    """The last finished run of a phase that was not there `before`."""
    made = [run for run in find_runs(RUNS, "visual", phase, "quick") if run.finished and run.path not in before]
    return made[-1] if made else None


if __name__ == "__main__":
    sys.exit(main())
