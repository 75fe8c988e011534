"""Time the page's server: until it is ready, one visitor who paints, and fifty who type at once.

    inscape bench explore [--json]

A visitor of the load types sentences of their own, a letter every 150 ms (80 words a minute), and asks as the page
does: the newest text as soon as the last answer is there, and paraphrases after each pause: one in the middle of the
sentence, where there are none to be found, and one at its end, asked for twice. Clients and server share the cores.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from inscape.data.scenes import render, sample
from inscape.explore.app import STATIC

__all__ = ["run"]

CLIENTS, SECONDS, LETTER, PAUSE = 50, 30.0, 0.15, 0.6
TOUCHES = 100


def run(clients: int = CLIENTS, seconds: float = SECONDS, touches: int = TOUCHES) -> dict[str, Any]:
    """Seconds to start, milliseconds of an answer (median, and the 95th of 100), and what went wrong."""
    with _server() as (address, started):
        alone = _touch(address, touches)
        found = _load(address, clients, seconds)
    times = np.array(sorted(found.times))
    return {
        "page kB": sum(path.stat().st_size for path in STATIC.rglob("*") if path.is_file()) / 1000,
        "page kB limit": 300,
        "seconds to ready": started,
        "seconds to ready limit": 3.0,
        "touch ms, median": 1000 * float(np.median(alone)),
        "touch ms, 95 %": 1000 * float(np.quantile(alone, 0.95)),
        "touch ms limit": 150,
        "clients": clients,
        "seconds": seconds,
        "answers": len(times),
        "errors": found.errors,
        "typing ms, median": 1000 * float(np.median(times)),
        "typing ms, 95 %": 1000 * float(np.quantile(times, 0.95)),
        "typing ms limit, 95 %": 1000,
    }


class _Load:
    """What the visitors met, all together."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.errors = 0


@contextmanager
def _server() -> Iterator[tuple[str, float]]:
    """A server of its own, and how long it took until it answered."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "inscape", "explore", "--port", "0"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"http://(\S+)/", process.stdout.readline())
                if found is None:
                    raise ConnectionError("the page's server did not start; see what inscape explore says")
                with closing(http.client.HTTPConnection(found.group(1), timeout=30)) as connection:
                    _ask(connection, "GET", "/api/codec")
                yield found.group(1), time.perf_counter() - began
            finally:
                process.terminate()


def _ask(connection: http.client.HTTPConnection, method: str, path: str, fields: Any = None) -> dict[str, Any]:
    """One answer; ConnectionError unless its status is 200."""
    body = None if fields is None else json.dumps(fields)
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise ConnectionError(f"status {response.status}")
    return json.loads(content)


def _touch(address: str, touches: int) -> list[float]:
    """Seconds of each reading of a latent that was changed a little, one after another."""
    connection = http.client.HTTPConnection(address, timeout=30)
    original = _ask(connection, "POST", "/api/encode", {"sentence": "a red ball is on the blue block"})["latent"]
    values = np.frombuffer(base64.b64decode(original), dtype="<f4")
    rng, times = np.random.default_rng(0), []
    for _ in range(touches):
        touched = base64.b64encode((values + 0.2 * rng.standard_normal(len(values))).astype("<f4").tobytes()).decode()
        began = time.perf_counter()
        _ask(connection, "POST", "/api/read", {"latent": touched, "original": original})
        times.append(time.perf_counter() - began)
    connection.close()
    return times


def _load(address: str, clients: int, seconds: float) -> _Load:
    found, until = _Load(), time.perf_counter() + seconds
    threads = [threading.Thread(target=_type, args=(address, i, until, found)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _type(address: str, number: int, until: float, found: _Load) -> None:
    """One visitor, until the time is over."""
    rng = np.random.default_rng(number)
    connection = http.client.HTTPConnection(address, timeout=30)

    def ask(path: str, fields: dict[str, Any]) -> None:
        began = time.perf_counter()
        try:
            _ask(connection, "POST", path, fields)
        except (OSError, ValueError, http.client.HTTPException):
            found.errors += 1
            connection.close()  # it connects anew at the next request
        else:
            found.times.append(time.perf_counter() - began)

    time.sleep(LETTER * rng.random())
    while time.perf_counter() < until:
        sentence = render(sample(rng, facts=1 + number % 2), rng)
        half = int(rng.integers(1, len(sentence)))
        for start, end in ((0, half), (half, len(sentence))):
            began, typed = time.perf_counter(), start
            while typed < end and time.perf_counter() < until:
                typed = min(end, max(typed + 1, start + int((time.perf_counter() - began) / LETTER)))
                time.sleep(max(0.0, began + (typed - start) * LETTER - time.perf_counter()))
                ask("/api/encode", {"sentence": sentence[:typed]})
            time.sleep(PAUSE)
            ask("/api/paraphrase", {"sentence": sentence[:end], "n": 5})
        ask("/api/paraphrase", {"sentence": sentence, "n": 5, "seed": int(rng.integers(1, 9))})
    connection.close()
