"""The bootstrap: what it decides, what it says, and that it hands over. Nothing here is installed or downloaded."""

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace

import pytest

FILE = Path(__file__).parents[1] / "inscape"
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"


@pytest.fixture
def boot(tmp_path, monkeypatch):
    """The bootstrap as a module, over a small repository in a folder whose name has a space."""
    for name in ("INSCAPE_VENV", "INSCAPE_TORCH", "INSCAPE_COMMAND", "UV_FIND_LINKS", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "a clone"
    root.mkdir()
    for name in ("inscape", "pyproject.toml", "requirements.lock"):
        (root / name).write_text(name)
    loader = SourceFileLoader("bootstrap", str(FILE))
    spec = importlib.util.spec_from_loader("bootstrap", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    venv = root / ".venv"
    places = {"ROOT": root, "VENV": venv, "BIN": venv / "bin", "PYTHON": venv / "bin/python", "CHOICE": venv / ".torch"}
    for name, place in places.items():
        monkeypatch.setattr(module, name, place)
    monkeypatch.setattr(module, "answer", lambda *command: "")
    monkeypatch.chdir(tmp_path)
    return module


@pytest.fixture
def made(boot):
    """The bootstrap with an environment that its stamp says is there."""
    boot.BIN.mkdir(parents=True)
    boot.PYTHON.touch()
    boot.stamp_path("").write_text(boot.stamp_of(""))
    return boot


class Steps:
    """Stands in for `run`: keeps the commands; those whose announcement holds `fails` fail."""

    def __init__(self, boot, monkeypatch, fails="nothing"):
        self.commands, self.envs, self.error, self.fails = [], [], boot.SetupError, fails
        monkeypatch.setattr(boot, "run", self)

    def __call__(self, what, command, hint, env=None):
        self.commands.append([str(c) for c in command])
        self.envs.append(env)
        if self.fails in what:
            raise self.error(f"{what} failed. {hint}")


def wheels(folder, tag=TAG, version=None, *, boot):
    folder.mkdir()
    (folder / f"torch-{version or boot.TORCH}+cpu-{tag}-{tag}-manylinux_2_28_x86_64.whl").touch()
    return folder


@pytest.mark.parametrize("name", ["inscape", "pyproject.toml", "requirements.lock"])
def test_the_stamp_changes_with_every_file_it_vouches_for(boot, name):
    before = boot.stamp_of("")
    (boot.ROOT / name).write_text("edited")
    assert boot.stamp_of("") != before


def test_the_stamp_changes_with_the_torch_build_the_extra_and_the_place(boot, monkeypatch, tmp_path):
    stamps = {boot.stamp_of(""), boot.stamp_of("dev")}
    monkeypatch.setenv("INSCAPE_TORCH", "pypi")
    stamps.add(boot.stamp_of(""))
    monkeypatch.delenv("INSCAPE_TORCH")
    moved = tmp_path / "moved"
    boot.ROOT.rename(moved)
    monkeypatch.setattr(boot, "ROOT", moved)
    assert len(stamps | {boot.stamp_of("")}) == 4


@pytest.mark.parametrize(("variable", "separator"), [("UV_FIND_LINKS", ","), ("PIP_FIND_LINKS", " ")])
def test_a_configured_wheel_folder_is_found(boot, monkeypatch, tmp_path, variable, separator):
    found = wheels(tmp_path / "wheels", boot=boot)
    for place in (f"{tmp_path / 'missing'}{separator}{found}", "wheels", f"file://{found}"):
        monkeypatch.setenv(variable, place)
        assert boot.local_wheels() == found


def test_uv_folders_may_have_spaces(boot, monkeypatch, tmp_path):
    found = wheels(tmp_path / "my wheels", boot=boot)
    monkeypatch.setenv("UV_FIND_LINKS", str(found))
    assert boot.local_wheels() == found


@pytest.mark.parametrize("other", [{"tag": "cp39"}, {"version": "2.12.0"}, {"version": "2.13.01"}])
def test_wheels_for_another_python_or_of_another_version_are_passed_over(boot, monkeypatch, tmp_path, other):
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels(tmp_path / "wheels", **other, boot=boot)))
    assert boot.local_wheels() is None


def test_wheels_are_for_the_python_of_the_environment(boot, monkeypatch, tmp_path):
    found = wheels(tmp_path / "wheels", tag="cp399", boot=boot)
    monkeypatch.setenv("PIP_FIND_LINKS", str(found))
    monkeypatch.setattr(boot, "answer", lambda *command: "3 99" if command[0] == boot.PYTHON else "")
    assert boot.local_wheels() == found


@pytest.mark.parametrize(
    ("want", "system", "tail"),
    [
        ("pypi", "Linux", []),
        ("cpu", "Linux", ["--torch-backend", "cpu"]),
        ("cu130", "Linux", ["--torch-backend", "cu130"]),
        ("auto", "Linux", ["--torch-backend", "auto"]),
        ("auto", "Darwin", []),
        ("auto", "Windows", []),
    ],
)
def test_the_torch_build_that_is_asked_for(boot, monkeypatch, want, system, tail):
    monkeypatch.setattr(boot.platform, "system", lambda: system)
    steps = Steps(boot, monkeypatch)
    boot.install_torch("uv", {}, want)
    ((*start, torch),) = [command[: len(command) - len(tail)] for command in steps.commands]
    assert start[:2] == ["uv", "--no-config"]
    assert torch == f"torch=={boot.TORCH}"
    assert steps.commands[0][len(start) + 1 :] == tail


def test_skip_leaves_torch_alone(boot, monkeypatch):
    steps = Steps(boot, monkeypatch)
    boot.install_torch("uv", {}, "skip")
    assert steps.commands == []


def test_a_named_wheel_folder_is_the_users_and_a_configured_one_goes_before_the_network(boot, monkeypatch, tmp_path):
    folder = wheels(tmp_path / "wheels", boot=boot)
    steps = Steps(boot, monkeypatch)
    monkeypatch.setenv("INSCAPE_TORCH", "wheels")  # relative to where the user is
    boot.install_torch("uv", {}, boot.torch_choice())
    monkeypatch.delenv("INSCAPE_TORCH")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    boot.install_torch("uv", {}, boot.torch_choice())
    assert [command[-2:] for command in steps.commands] == [["--find-links", str(folder)]] * 2


@pytest.mark.parametrize("folder", ["./missing", "empty"])
def test_a_folder_without_the_wheel_is_refused_by_name(boot, monkeypatch, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("INSCAPE_TORCH", folder)
    with pytest.raises(boot.SetupError, match=f"{Path(folder).name} holds no torch-.* wheel for Python"):
        boot.install_torch("uv", {}, boot.torch_choice())


def test_a_build_that_cannot_be_reached_says_what_to_set(boot, monkeypatch):
    monkeypatch.setattr(boot.platform, "system", lambda: "Linux")
    steps = Steps(boot, monkeypatch, fails="PyTorch")
    for want in ("cpu", "pypi", "auto"):
        with pytest.raises(boot.SetupError, match="INSCAPE_TORCH"):
            boot.install_torch("uv", {}, want)
    assert len(steps.commands) == 3  # without a GPU, nobody gets 3 GB that they did not ask for


def test_with_a_gpu_the_default_build_is_next(boot, monkeypatch):
    monkeypatch.setattr(boot.platform, "system", lambda: "Linux")
    monkeypatch.setattr(boot, "answer", lambda *command: "GPU 0" if command[0] == "nvidia-smi" else "")
    steps = Steps(boot, monkeypatch, fails="(auto)")
    boot.install_torch("uv", {}, "auto")
    assert steps.commands[1][-1] == f"torch=={boot.TORCH}"


def test_the_torch_choice_is_remembered_and_another_one_builds_again(boot, monkeypatch):
    boot.VENV.mkdir()
    monkeypatch.setattr(boot, "answer", lambda *command: f"{boot.TORCH}+cpu")
    assert boot.torch_is_there(boot.torch_choice())  # auto keeps what somebody put there
    assert not boot.torch_is_there("cu130")
    boot.CHOICE.write_text("cu130")
    assert boot.torch_choice() == "cu130"
    assert boot.torch_is_there("cu130")
    assert not boot.torch_is_there("cpu")
    monkeypatch.setenv("INSCAPE_TORCH", "")  # set to nothing is not set
    assert boot.torch_choice() == "cu130"


def test_a_failing_step_shows_its_words_and_the_hint(boot, capsys):
    say = [sys.executable, "-c", "import sys; sys.stderr.buffer.write(b'no route \\xff'); sys.exit(3)"]
    with pytest.raises(boot.SetupError, match=r"no route .\n\nwheels failed\. Set X"):
        boot.run("wheels", say, "Set X")
    assert "wheels ... failed" in capsys.readouterr().err
    boot.run("wheels", [sys.executable, "-c", ""], "Set X")


@pytest.fixture
def toolbox(boot, monkeypatch):
    """A machine with a new enough uv on PATH, an environment of this Python once it is made, and the right torch."""
    monkeypatch.setattr(boot.shutil, "which", lambda name, path=None: None if path else "/bin/uv")

    def answer(*command):
        if command[0] == "/bin/uv":
            return "uv 0.11.3 (2026)"
        if command[0] != boot.PYTHON or not boot.PYTHON.exists():
            return ""
        return boot.TORCH if "metadata" in command[-1] else "3 11"

    monkeypatch.setattr(boot, "answer", answer)
    return boot


def test_the_whole_set_up_and_no_second_one(toolbox, monkeypatch):
    toolbox.BIN.mkdir(parents=True)
    toolbox.PYTHON.touch()
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    steps = Steps(toolbox, monkeypatch)
    toolbox.set_up("dev")
    assert [command[:3] for command in steps.commands] == [["/bin/uv", "pip", "install"]] * 2
    assert "--extra" in steps.commands[0]
    assert steps.commands[1][-3:] == ["--no-deps", "-e", "."]
    assert all(env["UV_COMPILE_BYTECODE"] == "1" for env in steps.envs)
    toolbox.set_up("dev")
    toolbox.set_up("")  # the tests' environment serves for the rest
    assert len(steps.commands) == 2


def test_a_study_brings_its_extras_and_takes_none_away(toolbox, monkeypatch):
    extras = {"tides": "water", "storms": "water+air"}
    needy = {"run": extras, "sweep": extras | {"ray": "fire"}, "export": {"onnx": "earth"}}
    monkeypatch.setattr(toolbox, "NEEDY", needy)
    assert toolbox.extra_of(["run", "--preset", "quick", "tides.A1"]) == "water"
    assert toolbox.extra_of(["sweep", "storms.A1", "x=1,2"]) == "water+air"
    assert toolbox.extra_of(["sweep", "tides.A1", "x=1,2", "--runner=ray"]) == "water+fire"
    assert toolbox.extra_of(["export", "--format", "onnx", "OUT"]) == "earth"
    assert [toolbox.extra_of(words) for words in (["run", "visual"], ["list", "tides"], ["test"])] == ["", "", "dev"]
    toolbox.BIN.mkdir(parents=True)
    toolbox.PYTHON.touch()
    steps = Steps(toolbox, monkeypatch)
    toolbox.set_up("")
    assert not toolbox.is_set_up("water")
    toolbox.set_up("water+air")
    assert steps.commands[2].count("--extra") == 2
    assert all(toolbox.is_set_up(extra) for extra in ("", "water", "water+air"))
    toolbox.set_up("water")
    assert len(steps.commands) == 4
    toolbox.set_up("fire")
    assert toolbox.is_set_up("water+fire"), "each was added to the other"
    assert not toolbox.is_set_up("cluster")
    toolbox.set_up("dev")
    assert toolbox.is_set_up("earth"), "the tests' environment has it"
    assert not toolbox.is_set_up("cluster"), "and not this one"
    (toolbox.ROOT / "requirements.lock").write_text("new")
    toolbox.set_up("water")
    assert toolbox.is_set_up("water")
    assert not toolbox.is_set_up("water+air")  # was made from the old lock


def test_what_a_named_study_needs_is_known_for_every_verb_that_runs_its_code(boot):
    def needs(line):
        return boot.extra_of(line.split())

    assert needs("run audio-fusion.phase1 data.path=x") == needs("sweep audio-fusion.phase1 x=1,2") == "audio+lm"
    assert needs("bench audio-fusion --json") == needs("bench prompt-compression:some/model.1") == "lm"
    assert needs("config audio-fusion.phase1 --preset full") == "lm"
    assert needs("decode my.npz --grammar dogs.lark") == needs("decode my.npz --grammar=dogs.lark") == "grammar"
    assert [needs(line) for line in ("bench codec", "bench audio-structure", "config visual.P1")] == [""] * 3


def test_the_tests_environment_stands_in_for_exactly_those_extras_that_it_holds_whole(boot):
    """An extra that it holds in part would be taken for there, and its study would end at a missing package."""
    extras = tomllib.loads(FILE.with_name("pyproject.toml").read_text())["project"]["optional-dependencies"]
    needed = {extra for of_verb in boot.NEEDY.values() for extras in of_verb.values() for extra in extras.split("+")}
    assert {extra for extra in needed if not set(extras[extra]) <= set(extras["dev"])} == boot.BEYOND_DEV


def test_after_the_tests_a_study_still_gets_its_packages(toolbox, monkeypatch):
    toolbox.BIN.mkdir(parents=True)
    toolbox.PYTHON.touch()
    steps = Steps(toolbox, monkeypatch)
    toolbox.set_up("dev")
    for words in (["run", "prompt-compression"], ["run", "audio-structure", "data.codec=lyra:here"]):
        steps.commands.clear()
        toolbox.set_up(toolbox.extra_of(words))
        assert steps.commands, f"{words}: nothing was installed"
    steps.commands.clear()
    toolbox.set_up("audio+lm")
    toolbox.set_up(toolbox.extra_of(["export", "--format", "sbert", "OUT"]))
    assert steps.commands == []


def test_a_set_up_that_was_cut_off_is_done_again(toolbox, monkeypatch):
    toolbox.BIN.mkdir(parents=True)
    toolbox.PYTHON.touch()
    Steps(toolbox, monkeypatch)
    toolbox.set_up("")
    (toolbox.ROOT / "requirements.lock").write_text("new")
    Steps(toolbox, monkeypatch, fails="inscape itself")
    with pytest.raises(toolbox.SetupError):
        toolbox.set_up("")
    (toolbox.ROOT / "requirements.lock").write_text("requirements.lock")  # as at first, but half is installed
    assert not toolbox.is_set_up("")


def test_an_environment_whose_python_is_gone_is_made_anew_and_no_other_folder_is_cleared(toolbox, monkeypatch):
    steps = Steps(toolbox, monkeypatch)
    toolbox.VENV.mkdir()
    toolbox.stamp_path("").write_text(toolbox.stamp_of(""))
    assert not toolbox.is_set_up("")
    toolbox.make_venv()
    (toolbox.VENV / "pyvenv.cfg").touch()
    toolbox.make_venv()
    assert ["--clear" in command for command in steps.commands] == [False, True]


def test_half_a_venv_without_pip_is_made_anew_where_pip_is_needed(toolbox, monkeypatch):
    toolbox.BIN.mkdir(parents=True)
    toolbox.PYTHON.touch()
    (toolbox.VENV / "pyvenv.cfg").touch()
    steps = Steps(toolbox, monkeypatch)
    toolbox.make_venv()
    assert steps.commands == []
    old = toolbox.answer
    monkeypatch.setattr(
        toolbox, "answer", lambda *c: "uv 0.4.0" if c[0] == "/bin/uv" else "" if "pip" in c else old(*c)
    )
    toolbox.make_venv()
    assert "--clear" in steps.commands[0]


def test_a_second_set_up_waits_for_the_first(boot, monkeypatch, capsys):
    fcntl = pytest.importorskip("fcntl")
    waited = []
    monkeypatch.setattr(fcntl, "flock", lambda file, how: waited.append(how) if how == fcntl.LOCK_EX else refuse())

    def refuse():
        raise BlockingIOError

    with boot.one_at_a_time():
        assert waited == [fcntl.LOCK_EX]
    assert "another set-up is under way" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "handed"),
    [
        ([], ["-P", "-m", "inscape", "--help"]),
        (["demo"], ["-P", "-m", "inscape.demo"]),
        (["run", "visual", "a=b c"], ["-P", "-m", "inscape", "run", "visual", "a=b c"]),
        (["test", "-k", "boot"], ["-m", "pytest", "-n", str(os.cpu_count()), "--dist", "worksteal", "-k", "boot"]),
    ],
)
def test_words_are_handed_over(made, monkeypatch, tmp_path, words, handed):
    made.stamp_path("dev").write_text(made.stamp_of("dev"))
    monkeypatch.setattr(sys, "argv", ["inscape", *words])
    seen = {}
    monkeypatch.setattr(made, "hand_over", lambda command, env: seen.update(command=command, env=env, cwd=Path.cwd()))
    made.main()
    assert seen["command"] == [str(made.PYTHON), *handed]
    testing = words[:1] == ["test"]
    assert seen["cwd"] == (made.ROOT if testing else tmp_path)
    assert seen["env"].get("OMP_NUM_THREADS") == ("1" if testing else None) or "OMP_NUM_THREADS" in os.environ
    assert seen["env"].get("INSCAPE_COMMAND") == (None if testing else "./inscape")


@pytest.mark.parametrize(
    ("typed", "again"),
    [("./inscape", "./inscape"), ("../a clone/inscape", "'../a clone/inscape'"), ("inscape", "./inscape")],
)
def test_the_program_is_told_what_the_user_calls_it(boot, monkeypatch, typed, again):
    monkeypatch.setattr(sys, "argv", [typed, "status"])
    assert boot.called_as() == again
    monkeypatch.setattr(boot, "WINDOWS", True)
    assert boot.called_as().startswith("python ")


def test_tests_named_from_another_folder_are_found(made, monkeypatch, tmp_path):
    (tmp_path / "test_x.py").touch()
    assert made.command_of(["test", "test_x.py::test_y", "-x"])[-2:] == [f"{tmp_path / 'test_x.py'}::test_y", "-x"]


def script(tmp_path, body):
    """An executable that stands in for the environment's Python."""
    file = tmp_path / "python"
    file.write_text(f"#!{sys.executable}\n{body}")
    file.chmod(0o755)
    return [str(file)]


@pytest.mark.skipif(os.name == "nt", reason="on Windows the bootstrap waits instead")
def test_signals_and_exit_status_are_the_commands_own(made, tmp_path):
    """Ctrl-C gives a training time to save; a parent that waits in subprocess.call would kill it after 0.25 s."""
    body = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.6), sys.exit(42)))\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    command = script(tmp_path, body)
    code = (
        "from importlib.machinery import SourceFileLoader; import os, sys; sys.dont_write_bytecode = True\n"
        f"b = SourceFileLoader('b', {str(FILE)!r}).load_module(); b.hand_over({command!r}, dict(os.environ))"
    )
    quiet = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(quiet, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(timeout=20) == 42


def test_where_it_must_wait_it_waits_through_ctrl_c(made, monkeypatch):
    monkeypatch.setattr(made, "WINDOWS", True)
    turns = iter([KeyboardInterrupt, KeyboardInterrupt, 5])

    def wait():
        turn = next(turns)
        if turn is KeyboardInterrupt:
            raise turn
        return turn

    monkeypatch.setattr(made.subprocess, "Popen", lambda command, env: SimpleNamespace(wait=wait))
    assert made.hand_over(["x"], {}) == 5


def test_a_closed_output_is_none_that_files_are_taken_for():
    said = "import os; os.fstat(0); os.fstat(2); assert os.open('/', 0) > 2; print('x', flush=True)"
    code = (
        "from importlib.machinery import SourceFileLoader; import os; "
        f"b = SourceFileLoader('b', {str(FILE)!r}).load_module(); "
        f"b.hand_over({[sys.executable, '-c', said]!r}, dict(os.environ))"
    )
    quiet = [sys.executable, "-B", "-W", "ignore", "-c", code]
    assert subprocess.run(quiet, preexec_fn=lambda: os.closerange(0, 3), check=False).returncode == 0


def test_an_old_python_is_told_so(boot, monkeypatch):
    monkeypatch.setattr(boot.sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer"):
        boot.main()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "The set-up stopped.*No space left.*INSCAPE_VENV"),
        (PermissionError(13, "Permission denied", "/x/.venv"), "Permission denied.*INSCAPE_VENV"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(boot, monkeypatch, error, said):
    def set_up(extra):
        raise error

    monkeypatch.setattr(sys, "argv", ["inscape", "demo"])
    monkeypatch.setattr(boot, "set_up", set_up)
    with pytest.raises(SystemExit, match=said):
        boot.main()


def test_the_root_of_a_disk_is_no_environment(boot, monkeypatch):
    monkeypatch.setattr(boot, "VENV", Path("/"))
    monkeypatch.setattr(boot, "is_set_up", lambda extra: False)
    monkeypatch.setattr(boot, "build", lambda extra: pytest.fail("nothing may be built there"))
    monkeypatch.setattr(sys, "argv", ["inscape", "demo"])
    with pytest.raises(SystemExit) as ended:
        boot.main()
    assert str(ended.value).strip() == (
        f"INSCAPE_VENV=/ is the root of a disk; give a folder of its own, such as {boot.ROOT / '.venv'}"
    )


def test_an_interrupted_set_up_ends_without_a_traceback(boot, monkeypatch, capsys):
    def set_up(extra):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["inscape", "demo"])
    monkeypatch.setattr(boot, "set_up", set_up)
    assert boot.main() == 130
    assert "the next call goes on" in capsys.readouterr().err


def test_a_start_that_has_nothing_to_set_up_is_quick(made, tmp_path):
    """The bootstrap's own share of a start: 2 s are allowed for the whole."""
    (made.ROOT / "inscape").write_bytes(FILE.read_bytes())
    (made.ROOT / "inscape").chmod(0o755)
    made.PYTHON.unlink()
    script(made.BIN, "import os, sys; print(os.environ['INSCAPE_COMMAND'], *sys.argv[1:])")
    made.stamp_path("").write_text(made.stamp_of(""))
    start = time.monotonic()
    said = subprocess.check_output([made.ROOT / "inscape", "status", "--json"], text=True)
    assert said == f"{shlex.quote(str(made.ROOT / 'inscape'))} -P -m inscape status --json\n"
    assert time.monotonic() - start < 2
