"""The commands of docs/own-text.md that make a text file out of other files: run in bash, as they stand on the page."""

import gzip
import json
import lzma
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from inscape.data.text_lines import lines_of

PAGE = (Path(__file__).parent.parent.parent / "docs" / "own-text.md").read_text(encoding="utf-8")
needs = pytest.mark.skipif(not all(map(shutil.which, ("bash", "gzip", "xz", "paste"))), reason="needs a Unix shell")


def made_by_the_page(folder: Path, name: str) -> list[str]:
    """The lines of the file `name`, after the command of the page that writes it has run in `folder`."""
    blocks = re.findall(r"(?:^    .*\n)+", PAGE, re.M)
    (command,) = [textwrap.dedent(block) for block in blocks if block.rstrip().endswith(f"> {name}")]
    command = command.replace(".venv/bin/python", sys.executable)
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=folder, check=True)
    return [line.rstrip("\n") for line in lines_of(folder / name)]


@needs
def test_captions_side_by_side_become_groups(tmp_path: Path) -> None:
    for place in range(1, 6):
        lines = f"A dog runs, said {place}.\nÉin cat, said {place}.\n"
        (tmp_path / f"train.{place}.en.gz").write_bytes(gzip.compress(lines.encode()))
    groups = made_by_the_page(tmp_path, "captions.tsv")
    assert [line.split("\t") for line in groups] == [
        [f"{what}, said {place}." for place in range(1, 6)] for what in ("A dog runs", "Éin cat")
    ]


@needs
def test_a_column_of_a_csv_becomes_sentences(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text('id,caption,start\n7,"Ducks quack, and\nwater splashes",130\n8,A man yells,60\n')
    assert made_by_the_page(tmp_path, "reviews.txt") == ["Ducks quack, and water splashes", "A man yells"]


@needs
def test_contexts_of_a_squad_file_become_sentences(tmp_path: Path) -> None:
    contexts = ["It rained. Why?  Nobody\nknew!", "3.5 inches fell."]
    data = [{"title": "Rain", "paragraphs": [{"context": context, "qas": []} for context in contexts]}]
    (tmp_path / "nyt_v1.0.json.xz").write_bytes(lzma.compress(json.dumps({"data": data}).encode()))
    assert made_by_the_page(tmp_path, "news.txt") == ["It rained.", "Why?", "Nobody knew!", "3.5 inches fell."]
