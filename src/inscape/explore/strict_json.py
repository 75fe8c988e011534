"""How every answer of the page's API is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

__all__ = ["answer_in_json"]


def answer_in_json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Strict JSON in ASCII: half a surrogate pair, in a request, a file or a file's name, has no other form.

    ValueError on NaN and infinities, for which JSON has no word.
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Response(text, status, headers, "application/json")
