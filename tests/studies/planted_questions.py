"""Small files of the SQuAD format."""

import json
from pathlib import Path

from inscape.data.questions.splits import split_of_group


def titles(split: str, count: int) -> list[str]:
    """Names of articles of a split."""
    return [title for i in range(40 * count) if split_of_group(title := f"Article {i}") == split][:count]


def squad_file(path: Path, questions: dict[str, int]) -> Path:
    """A file of the SQuAD format: for each article how many questions, each with a paragraph of its own."""
    articles = [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": f"In {title} number {i} stands. {'It is told at some length. ' * 3}",
                    "qas": [{"id": f"{title} {i}", "question": "What stands?", "answers": [{"text": f"number {i}"}]}],
                }
                for i in range(count)
            ],
        }
        for title, count in questions.items()
    ]
    path.write_text(json.dumps({"data": articles}))
    return path
