"""Write a text file of scene sentences, one a line.

    python -m inscape.data.scenes --num 5000 --complexity 1 --seed 42 --output train.txt

The same arguments give the same file. Sentences are of the training split unless --split says otherwise.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn, final

import numpy as np

from inscape.core.rundir import write_atomically
from inscape.data.scenes import SPLITS, count_sentences, render, sample
from inscape.data.scenes.scene import MAX_FACTS

MIXED, ALL = "mixed", "all"
LARGEST = 10_000_000  # the file is built in memory


@final
class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line: argparse would print the usage as well."""
        self.exit(2, f"inscape.data.scenes: {message}\n")


def _whole_number(low: int, high: int):
    def convert(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return convert


def _output(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {path.parent} does not exist; make it first")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns 0, or leaves with status 2 and one line on stderr on bad input, with nothing written."""
    levels = [str(n) for n in range(1, MAX_FACTS + 1)]
    parser = _Parser(prog="python -m inscape.data.scenes", description="Write scene sentences, one a line.")
    parser.add_argument("--num", type=_whole_number(1, LARGEST), required=True, help="how many sentences")
    parser.add_argument("--complexity", choices=[*levels, MIXED], default="1", help="facts in a scene")
    parser.add_argument("--seed", type=_whole_number(0, 2**63 - 1), default=0)
    parser.add_argument("--split", choices=[*SPLITS, ALL], default="train", help="which scenes to draw from")
    parser.add_argument("--output", type=_output, required=True, help="the file to write")
    given = parser.parse_args(arguments)

    facts = None if given.complexity == MIXED else int(given.complexity)
    split = None if given.split == ALL else given.split
    rng = np.random.default_rng(given.seed)
    sentences = [render(sample(rng, facts=facts, split=split), rng) for _ in range(given.num)]
    try:
        write_atomically(given.output, "\n".join(sentences) + "\n")
    except OSError as error:
        parser.error(f"cannot write {given.output}: {error.strerror}")
    print(f"{given.output}: {given.num:,} sentences, {len(set(sentences)):,} of them distinct")
    print(f"the grammar has {count_sentences(facts):,} distinct sentences of complexity {given.complexity}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
