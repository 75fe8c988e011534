"""What is kept of where a run was made: what it rests on by version, and how the program was called."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from inscape.core import environment as module
from inscape.core.environment import environment


def test_all_that_inscape_asks_for_and_is_installed_has_its_version() -> None:
    versions = environment()["versions"]
    for name in ("inscape", "torch", "numpy", "transformers", "soundfile", "soxr", "pyarrow", "espeakng-loader"):
        try:
            wanted = metadata.version(name)
        except metadata.PackageNotFoundError:
            assert name not in versions
        else:
            assert versions[name] == wanted
    assert versions["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert {"inscape", "torch", "numpy"} <= versions.keys()


def test_extras_count_and_the_tools_of_the_tests_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=1.26", "Gguf[x] >=0.17; extra == 'lm'", "soxr; (sys_platform == 'linux') and extra == \"audio\""]
    monkeypatch.setattr(
        metadata, "requires", lambda _: [*wanted, 'ruff>=0.14; extra == "dev"', "none_of_it; extra=='x'"]
    )
    held = {"inscape": "0", "numpy": "1", "Gguf": "2", "soxr": "3", "ruff": "4"}

    def version(name: str) -> str:
        if name not in held:
            raise metadata.PackageNotFoundError(name)
        return held[name]

    monkeypatch.setattr(metadata, "version", version)
    assert list(environment()["versions"].items())[1:] == [
        ("Gguf", "2"),
        ("inscape", "0"),
        ("numpy", "1"),
        ("soxr", "3"),
    ]


def test_code_that_was_never_installed_has_no_version_and_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert environment()["versions"].keys() <= {"python", "inscape"}


@pytest.mark.parametrize(
    ("argv", "called", "wanted"),
    [
        (["/x/src/inscape/__main__.py", "run", "visual"], "./inscape", ["./inscape", "run", "visual"]),
        (["/usr/bin/inscape", "run"], None, ["inscape", "run"]),
        (
            ["/inscape/src/inscape/cluster/__main__.py", "jobs.jsonl", "3"],
            "./inscape",
            ["python -m inscape.cluster", "jobs.jsonl", "3"],
        ),
        (["/x/bin/pytest", "-q"], "./inscape", ["pytest", "-q"]),
        (["/x/other/__main__.py", "-q"], "./inscape", ["__main__.py", "-q"]),
        (["/x/inscape/.venv/lib/python3.12/site-packages/pytest/__main__.py"], "./inscape", ["__main__.py"]),
        ([""], None, [""]),
    ],
)
def test_a_run_says_how_the_program_was_called(
    argv: list[str], called: str | None, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.sys, "argv", argv)
    monkeypatch.delenv("INSCAPE_COMMAND", raising=False)
    if called:
        monkeypatch.setenv("INSCAPE_COMMAND", called)
    assert environment()["command"] == wanted
