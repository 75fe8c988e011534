"""`inscape explore` as a process: it says where it is, answers there, and refuses in one line what it cannot do."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sampling_codec import sampling_weights

from inscape.cli import main
from inscape.explore import server


@contextlib.contextmanager
def explore(folder: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that a server of its own says, once it has said it."""
    command = [sys.executable, "-m", "inscape", "explore", *words]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://(\S+)/", line)
            assert found, line or process.stderr
            yield found.group(1), process
        finally:
            process.kill()


def answer(address: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def test_it_is_ready_within_three_seconds_and_stops_when_asked(tmp_path: Path):
    started = time.monotonic()
    with explore(tmp_path, "--port", "0") as (address, process):
        assert answer(address, "/")[0] == 200
        status, body = answer(address, "/api/codec")
        assert time.monotonic() - started < 9, "3 s on cores that are free; here others run beside it"
        assert status == 200
        assert json.loads(body)["shape"] == [6, 32, 32]
        assert json.loads(answer(address, "/api/runs")[1])["studies"] == []
        process.send_signal(signal.SIGINT)
        assert process.wait(10) in (0, 130)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_two_pages_do_not_take_each_others_port(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "inscape", "explore", "--port", str(port)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"127.0.0.1 port {port} cannot be had" in done.stderr
    assert "give another --port" in done.stderr


@pytest.mark.parametrize("host", ["", " "])
def test_no_address_is_not_every_address(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(server, "_taken", lambda *_: pytest.fail("no port may be taken"))
    assert main(["explore", "--port", "0", "--host", host]) == 2
    assert capsys.readouterr().err == (
        f"inscape: --host {host!r} names no address; leave it out for this machine alone, or give 0.0.0.0 for all\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "--port 70000 is out of range; allowed: 0 to 65535"),
        (["--port", "-1"], "--port -1 is out of range"),
        (["--port", "x"], "invalid int value"),
        (["--port", "0", "--weights", "nothing.safetensors"], "nothing.safetensors does not exist"),
        (["--port", "0", "--out", "file"], "--out file is a file"),
        (["--port", "0", "--host", "no.such.host.invalid"], "cannot be had"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["explore", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


def test_a_prior_that_is_damaged_is_refused_before_the_page_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(server.uvicorn, "Server", lambda _: pytest.fail("it must not be served"))
    weights = sampling_weights(tmp_path)
    (prior,) = tmp_path.glob("*prior.safetensors")
    prior.write_bytes(b"no safetensors")
    assert main(["explore", "--port", "0", "--weights", str(weights)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert prior.name in err
