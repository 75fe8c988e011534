"""The web page's server: one starlette app, on loopback unless told otherwise, that asks nothing of any other host.

A page in a browser can be reached by any other page that the same browser has open, so each request is checked: the
Host header must name this machine (against rebinding of names), a post must be JSON and come from this page's own
origin, a body has a limit, and what is sent back may load nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inscape.codec import VisualCodec
from inscape.explore.batching import Busy
from inscape.explore.codec_routes import CodecAnswers, codec_routes
from inscape.explore.runs import run_routes
from inscape.explore.strict_json import answer_in_json
from inscape.explore.wire import Refused

__all__ = ["STATIC", "build_app", "hosts_of"]

STATIC = Path(__file__).parent / "static"
LARGEST_BODY = 256 << 10  # bytes, unless latents need more; two of 6 x 32 x 32 take 66 kB
SLOWEST_BODY = 10.0  # seconds
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def build_app(codec: VisualCodec, runs: Path, *, about: str = "", hosts: Sequence[str] = ()) -> Starlette:
    """The app. `runs`: the folder of runs that may be looked at; `hosts`: names it answers to beside loopback's."""
    answers = CodecAnswers(codec, about)
    largest = max(LARGEST_BODY, 2 * 6 * math.prod(codec.latent_shape) + 4096)  # two latents in base64, and names

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        answers.close()

    routes = [
        Route("/", _front),
        *codec_routes(answers),
        *run_routes(runs),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(_Guard, hosts=frozenset(map(str.lower, hosts)), largest=largest)],
        exception_handlers={Refused: _refused, Busy: _busy, HTTPException: _not_here, Exception: _fault},
    )


def hosts_of(host: str) -> list[str]:
    """What a page served at this address may be called beside loopback's names."""
    if host in ("0.0.0.0", "::"):
        return [socket.gethostname(), socket.getfqdn()]
    return [host]


async def _front(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return answer_in_json({"error": " ".join(str(error).split()), "field": error.field}, 400)


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "there is nothing at this address", 405: f"{request.method[:10]} is not allowed at this address"}
    text = said.get(error.status_code, error.detail)
    return answer_in_json({"error": f"{text}; docs/explore.md lists the API", "field": ""}, error.status_code)


async def _fault(_: Request, error: Exception) -> Response:
    """A fault of ours: the server's log has the traceback, the visitor a line."""
    told = {"error": "a fault of inscape's; the terminal that runs it has the details", "field": ""}
    return answer_in_json(told, 500, HEADERS)  # this one is sent outside the guard


async def _busy(_: Request, error: Exception) -> Response:
    return _error("more is asked of this page than it can answer soon; try again in a moment", 503)


@final
class _Guard:
    """Refuses what no visitor of this page would send, and sends the headers that keep the page to itself."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], largest: int) -> None:
        self._app, self._hosts, self._largest = app, hosts, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), scope["method"])
        if refusal:
            await self._with_headers(refusal, scope, receive, send)
            return
        if scope["method"] == "POST":
            try:
                whole = await asyncio.wait_for(_whole_body(receive, self._largest), SLOWEST_BODY)
            except TimeoutError:
                text = f"the body did not come within {SLOWEST_BODY:g} s; send it again"
                await self._with_headers(_error(text, 408), scope, receive, send)
                return
            if whole is None:
                text = f"the body is larger than {self._largest >> 10} KiB; send one latent or sentence at a time"
                await self._with_headers(_error(text, 413), scope, receive, send)
                return
            receive = _replayed(whole, receive)
        await self._with_headers(self._app, scope, receive, send)

    def _refusal(self, headers: Headers, method: str) -> Response | None:
        if not self._is_ours(headers.get("host", "")):
            return _error("this page answers to its own address only; open the one that the terminal shows", 400)
        if method != "POST":
            return None
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != headers.get("host"):
            return _error("posts come from this page itself; this one came from another", 403)
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return _error("the body must be JSON, with Content-Type: application/json", 415)
        return None

    def _is_ours(self, host: str) -> bool:
        """An address in figures (no name can be rebound to it), localhost, or a name that was given."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name == "localhost" or name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or bool(self._hosts)

    async def _with_headers(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await app(scope, receive, sent)


def _netloc(origin: str) -> str:
    """What an Origin header says the host is; empty for anything that is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


async def _whole_body(receive: Receive, largest: int) -> bytes | None:
    """The body, or None if it is too large."""
    parts: list[bytes] = []
    more, size = True, 0
    while more:
        message: Any = await receive()
        if message["type"] != "http.request":  # the visitor has gone
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > largest:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once and is the real one afterwards."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _error(text: str, status: int) -> Response:
    return answer_in_json({"error": text, "field": ""}, status)
