"""`inscape explore`: load the codec, take a port, say where the page is, serve until interrupted."""

from __future__ import annotations

import socket
from pathlib import Path

import torch
import uvicorn

from inscape.codec import VisualCodec, find_weights
from inscape.explore.app import build_app, hosts_of
from inscape.studies.visual.latent_prior import load_prior, prior_beside

__all__ = ["LOOPBACK", "PORT", "serve"]

LOOPBACK = "127.0.0.1"
PORT = 8765
MOST_CONNECTIONS = 512  # at once; the next is answered with status 503


def serve(port: int | None, host: str, weights: Path | None, runs: Path) -> None:
    """Serve the page until interrupted. port: 0 for any free one, None for 8765 or, if that is taken, any free one.

    ValueError in one line on a port or host that cannot be had, on weights that cannot be read or only encode, on a
    latent prior beside them that is damaged or another codec's, and if `runs` is a file.
    """
    if not host.strip():  # the system would take it for every address of this machine
        raise ValueError(
            f"--host {host!r} names no address; leave it out for this machine alone, or give 0.0.0.0 for all"
        )
    if port is not None and not 0 <= port <= 65_535:
        raise ValueError(f"--port {port} is out of range; allowed: 0 to 65535, 0 for any free one")
    if runs.exists() and not runs.is_dir():
        raise ValueError(f"--out {runs} is a file; give the folder that holds the runs")
    taken = _taken(host, port)
    try:
        weights = find_weights() if weights is None else weights
        codec = VisualCodec.from_pretrained(weights)
        _ = codec.reading  # an encoder alone is refused here, and not at the first click
        if prior := prior_beside(weights):
            load_prior(prior, codec.trained.model)  # and so is one that is damaged, or another codec's
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))  # the other half answers; one sentence is no slower
        app = build_app(codec, runs, about=weights.name, hosts=() if host == LOOPBACK else hosts_of(host))
        shown = f"[{host}]" if ":" in host else host
        print(f"inscape: http://{shown}:{taken.getsockname()[1]}/ (stop with Ctrl-C)", flush=True)
        if host not in (LOOPBACK, "localhost", "::1"):
            print("inscape: anyone who can reach this address can use the page and see the runs", flush=True)
        uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, limit_concurrency=512)
        ).run(sockets=[taken])
    finally:
        taken.close()


def _taken(host: str, port: int | None) -> socket.socket:
    """A bound socket; ValueError if there is none to have."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    wanted = [PORT, 0] if port is None else [port]
    reason = ""
    for number in wanted:
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, number))
            found.listen(128)  # from here on whoever follows the address waits, and is not refused
            return found
        except (OSError, UnicodeError) as error:
            found.close()
            reason = getattr(error, "strerror", None) or str(error)
    raise ValueError(f"{host} port {wanted[0]} cannot be had: {reason}; give another --port, or --host 127.0.0.1")
