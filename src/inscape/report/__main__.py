"""Keep the committed evidence: `python -m inscape.report results --collect RUN... --readme README.md [--check]`.

--collect copies finished runs into the folder (with --no-figures all but the figures), --readme brings the README's
tables up to date, and --check beside it only says whether they are (exit 1 if not). Bad input, and what cannot be
written: one line, exit 2.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from inscape.command_line import BAD_INPUT, OneLineParser
from inscape.core.rundir import RunDir
from inscape.report import collect, update_readme
from inscape.studies import all_studies

__all__ = ["main"]


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = OneLineParser(prog="python -m inscape.report", description="Keep the committed evidence.")
    parser.add_argument("results", type=Path, help="the folder of committed evidence, e.g. results")
    parser.add_argument("--collect", nargs="+", default=[], metavar="RUN", help="finished runs to copy into it")
    parser.add_argument(
        "--no-figures", action="store_true", help="leave figures behind: they show sentences of the corpus"
    )
    parser.add_argument("--readme", type=Path, help="the file whose result tables are brought up to date")
    parser.add_argument(
        "--check", action="store_true", help="only compare --readme's tables; exit 1 if one is out of date"
    )
    asked = parser.parse_args(words)
    try:
        if asked.check and asked.readme is None:
            raise ValueError("--check compares the tables of a file; name it with --readme, such as --readme README.md")
        for run in asked.collect:
            print(collect(RunDir.open(run), asked.results, figures=not asked.no_figures))
        if asked.readme is None:
            return 0
        stale = update_readme(asked.readme, asked.results, write=not asked.check, studies=all_studies())
    except ValueError as error:
        return _refuse(error)
    except OSError as error:
        place = error.filename or asked.results
        return _refuse(f"{place} cannot be read or written: {error.strerror or error}; give another folder or file")
    state = "out of date" if asked.check else "brought up to date"
    print(f"{asked.readme}: {state if stale else 'up to date'}")
    return 1 if stale and asked.check else 0


def _refuse(what: object) -> int:
    print(f"inscape.report: {' '.join(str(what).split())}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
