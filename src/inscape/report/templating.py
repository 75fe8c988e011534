"""The one template environment: every text is escaped, and a name that a template misspells is an error."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from inscape.report import words

__all__ = ["render"]


def render(template: str, **content: Any) -> str:
    """Fill one of the templates. What UTF-8 cannot hold, as of a name that is no UTF-8, stands as an escape."""
    page = _environment().get_template(template).render(**content)
    return page.encode(errors="backslashreplace").decode()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["OUTCOMES"] = words.OUTCOMES
    environment.filters |= {name: getattr(words, name) for name in words.__all__ if callable(getattr(words, name))}
    return environment
