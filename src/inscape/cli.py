"""The verbs. They parse words, call the package and print; what they do is elsewhere.

Exit status: 0 done (a FAIL verdict is a result, not an error), 2 bad input (one line on stderr, nothing written),
1 a fault of ours, 3 `judge --strict` on anything but PASS, 130 interrupted. The interface is frozen by a test.
Imports of anything heavy stand inside the verbs: `inscape --help` must be instant.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inscape.command_line import BAD_INPUT, OneLineParser, escape_what_cannot_be_printed, flush_stdout, parse_words
from inscape.core.program import program

if TYPE_CHECKING:
    from inscape.core.rundir import RunDir
    from inscape.core.study import Phase, Study

__all__ = ["build_parser", "main"]

DONE, FAULT, NOT_PASSED, INTERRUPTED = 0, 1, 3, 130
PRESETS = ("smoke", "quick", "small", "full")


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = OneLineParser(prog=program(), description="Learn a latent, test it honestly, and see it.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, do: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(do=do)
        return added

    run = verb("run", _run, "run a study or one phase of it, behind its gates")
    run.add_argument("target", metavar="STUDY[.PHASE]")
    changes = "config changes; such a run never opens a gate; data.* names a corpus, with gates of its own"
    run.add_argument("overrides", nargs="*", metavar="key=value", help=changes)
    run.add_argument("--preset", choices=PRESETS, default="quick")
    run.add_argument("--seed", type=int, help="one seed instead of all declared ones")
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    run.add_argument("--out", type=Path, default=Path("runs"), help="where runs are kept (default: runs)")
    run.add_argument("--remedy", action="store_true", help="after a FAIL, apply the plan's remedies in order")
    run.add_argument("--despite-gate", metavar="WHY", help="walk past a shut gate; the reason is kept and shown")

    verb("resume", _resume, "go on with an interrupted run").add_argument("run", metavar="RUN")
    judge = verb("judge", _judge, "judge a run's metrics again, without running anything")
    judge.add_argument("run", metavar="RUN")
    judge.add_argument("--json", action="store_true")
    judge.add_argument("--strict", action="store_true", help="exit 3 on anything but PASS, today's gate included")
    verb("report", _report, "write a run's report again").add_argument("run", metavar="RUN")
    status = verb("status", _status, "which gates are open, by study, phase and preset")
    status.add_argument("--json", action="store_true")
    status.add_argument("--out", type=Path, default=Path("runs"))
    verb("list", _list, "the studies and their phases").add_argument("--json", action="store_true")
    config = verb("config", _config, "the config that a run would have")
    config.add_argument("target", metavar="STUDY.PHASE")
    config.add_argument("overrides", nargs="*", metavar="key=value", help="config changes, as for run")
    config.add_argument("--preset", choices=PRESETS, default="quick")

    _add_sweep_verb(verb)
    _add_codec_verbs(verb)
    export = verb("export", _export, "the codec for other programs: a folder in the format that they read")
    export.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    export.add_argument("--format", required=True, help="hf | sbert | onnx | web")
    export.add_argument("--weights", help="a run folder, a weights file, or a hub name (default: the package's)")
    explore = verb("explore", _explore, "the page: a latent to touch, two sentences, the runs; on this machine")
    explore.add_argument("--port", type=int, help="0 for any free one (default: 8765, or any if that is taken)")
    explore.add_argument("--host", default="127.0.0.1", help="the address to serve at (default: this machine alone)")
    explore.add_argument("--weights", type=Path, help="a run folder or a weights file (default: the package's)")
    explore.add_argument("--out", type=Path, default=Path("runs"), help="the runs to be shown (default: runs)")
    bench = verb(
        "bench",
        _bench,
        "measure speed: visual-step, stats, codec, explore, audio-structure, prompt-compression, audio-fusion, "
        "processes, scaling, latent-size",
    )
    bench.add_argument("name", metavar="NAME")
    bench.add_argument("--json", action="store_true")
    return parser


def _add_sweep_verb(verb: Callable[..., argparse.ArgumentParser]) -> None:
    sweep = verb("sweep", _sweep, "run a phase with every combination of some values and seeds; again: what is missing")
    sweep.add_argument("target", metavar="STUDY.PHASE")
    sweep.add_argument("overrides", nargs="*", metavar="key=a,b,c", help="config changes, each with its values")
    sweep.add_argument("--seeds", metavar="0,1,2", help="in place of those that the phase declares")
    sweep.add_argument("--preset", choices=PRESETS, default="quick")
    sweep.add_argument("--out", type=Path, default=Path("runs"), help="where runs are kept (default: runs)")
    sweep.add_argument("--sweep", type=Path, metavar="FOLDER", help="the sweep's own (default: under OUT/sweeps)")
    sweep.add_argument("--runner", choices=("local", "slurm", "ray"), default="local")
    sweep.add_argument("--workers", type=int, help="how many jobs at a time (default: by cores or GPUs)")
    sweep.add_argument("--json", action="store_true")


def _add_codec_verbs(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The verbs over a trained codec, `inscape.codec.VisualCodec` from the command line."""
    lines = "a UTF-8 text file, one sentence a line"
    encode = verb("encode", _encode, "sentences to latents")
    encode.add_argument("texts", nargs="*", metavar="TEXT")
    encode.add_argument("--file", type=Path, help=lines)
    encode.add_argument("--out", type=Path, default=Path("latents.safetensors"))
    encode.add_argument("--png", type=Path, help="also draw the latents")
    encode.add_argument("--strict", action="store_true", help="refuse sentences that are not of the codec's grammar")
    decode = verb("decode", _decode, "latents to sentences, one a line")
    decode.add_argument("latents", type=Path, metavar="LATENTS", help=".safetensors or .npz with `latents`, or .npy")
    decode.add_argument("--grammar", type=Path, metavar="FILE", help="say nothing but its sentences (Lark syntax)")
    paraphrase = verb("paraphrase", _paraphrase, "other sentences of the same meaning, best round trip first")
    paraphrase.add_argument("text", metavar="TEXT")
    paraphrase.add_argument("-n", type=int, default=5, help="how many, 1 to 100 (default: 5)")
    paraphrase.add_argument("--json", action="store_true")
    embed = verb("embed", _embed, "sentences to embeddings of unit norm")
    embed.add_argument("--file", type=Path, required=True, help=lines)
    embed.add_argument("--out", type=Path, required=True, help="a .npy file: float32, one row a sentence")
    similarity = verb("similarity", _similarity, "cosine of two sentences' embeddings")
    similarity.add_argument("first", metavar="A")
    similarity.add_argument("second", metavar="B")
    similarity.add_argument("--json", action="store_true")
    for added in (encode, decode, paraphrase, embed, similarity):
        added.add_argument("--weights", type=Path, help="a run folder or a weights file (default: the package's)")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    escape_what_cannot_be_printed()
    try:
        try:
            arguments = parse_words(build_parser(), list(sys.argv[1:] if words is None else words))
        except SystemExit as leaving:  # argparse has said its line
            status = leaving.code if isinstance(leaving.code, int) else FAULT
        else:
            status = _do(arguments)
        flush_stdout()
        return status
    except BrokenPipeError:  # as in `inscape list | head -1`: the reader has gone, and what is left is not for anyone
        with suppress(OSError):
            flush_stdout()
        return FAULT
    except KeyboardInterrupt as error:
        return _complain(INTERRUPTED, str(error) or "interrupted")
    except OSError as error:
        return _complain(FAULT, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def _do(arguments: argparse.Namespace) -> int:
    """What the verb does; where it refuses, or is stopped and has saved, it says so in one line."""
    from inscape.core.runner import MeasurementFailed
    from inscape.stopping import TrainingDiverged, TrainingInterrupted

    try:
        return arguments.do(arguments)
    except (MeasurementFailed, TrainingDiverged, ValueError) as error:
        if os.environ.get("INSCAPE_TRACEBACK"):
            raise
        return _complain(BAD_INPUT if isinstance(error, ValueError) else FAULT, error)
    except TrainingInterrupted as error:
        return _complain(INTERRUPTED, error)


def _complain(status: int, what: object) -> int:
    with suppress(OSError):  # the line is what matters
        flush_stdout()
    print(f"inscape: {' '.join(str(what).split())}", file=sys.stderr)
    return status


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _study(name: str) -> "Study":
    from inscape.studies import study

    return study(name)


def _study_and_phases(target: str) -> "tuple[Study, tuple[Phase, ...]]":
    name, dot, code = target.partition(".")
    found = _study(name)
    return found, (found.phase(code),) if dot else found.phases


def _finish(run: "RunDir") -> None:
    """What follows every finished run: its report, and the index over all runs beside it."""
    from inscape.report import write_index, write_report

    write_report(run)
    if run.root is not None:
        write_index(run.root)


def _run(arguments: argparse.Namespace) -> int:
    from inscape.core.runner import Request, run_study
    from inscape.device import pick_device
    from inscape.followers import check_several, follow, follows, leading
    from inscape.show import verdicts

    study, phases = _study_and_phases(arguments.target)
    check_several(study, phases)
    pick_device(arguments.device)  # refused before a run is made
    if follows():
        follow(study, arguments.device)
        return DONE
    request = Request(
        preset=arguments.preset,
        seed=arguments.seed,
        device=arguments.device,
        root=arguments.out,
        overrides=tuple(arguments.overrides),
        despite_gate=arguments.despite_gate,
        remedy=arguments.remedy,
    )
    with leading(study, arguments.device) as led:
        done = run_study(led, [led.phase(phase.code) for phase in phases], request, _say, _finish)
    if done:
        verdicts(done)
        print(f"report: {done[-1].path / done[-1].REPORT}\nall runs: {arguments.out / 'index.html'}")
    return DONE


def _sweep(arguments: argparse.Namespace) -> int:
    from inscape.cluster.sweep import sweep

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("a sweep starts processes of its own; start it without torchrun")
    return sweep(
        arguments.target,
        arguments.overrides,
        seeds=arguments.seeds,
        preset=arguments.preset,
        out=arguments.out,
        folder=arguments.sweep,
        runner=arguments.runner,
        workers=arguments.workers,
        as_json=arguments.json,
    )


def _resume(arguments: argparse.Namespace) -> int:
    from inscape.core.rundir import RunDir
    from inscape.core.runner import resume
    from inscape.followers import check_several, follow, follows, leading
    from inscape.show import verdict_table

    run = RunDir.open(arguments.run)
    env = run.read_json(run.ENV)
    study = _study(env["study"])
    check_several(study, [study.phase(env["phase"])])
    if follows():
        follow(study, env["device"])
        return DONE
    with leading(study, env["device"]) as led:
        resume(led, run, _finish)
    verdict_table(run)
    print(f"report: {run.path / run.REPORT}")
    return DONE


def _judge(arguments: argparse.Namespace) -> int:
    from inscape.core.rundir import RunDir
    from inscape.show import judgement, verdict_table

    run = RunDir.open(arguments.run)
    found, today = judgement(run, _study)
    if arguments.json:
        _print_json(found)
    else:
        verdict_table(run)
        if today:
            print(today)
    passed = found["outcome"] == found["under_todays_gate"] == "PASS"
    return NOT_PASSED if arguments.strict and not passed else DONE


def _report(arguments: argparse.Namespace) -> int:
    from inscape.core.rundir import RunDir

    run = RunDir.open(arguments.run)
    _finish(run)
    print(run.path / run.REPORT)
    return DONE


def _status(arguments: argparse.Namespace) -> int:
    from inscape.show import status_rows, status_table
    from inscape.studies import all_studies

    rows = status_rows(all_studies(), arguments.out)
    if arguments.json:
        _print_json(rows)
    else:
        status_table(rows)
    return DONE


def _list(arguments: argparse.Namespace) -> int:
    from inscape.show import study_rows
    from inscape.studies import all_studies

    rows = study_rows(all_studies())
    if arguments.json:
        _print_json(rows)
        return DONE
    for row in rows:
        print(f"{row['study']}: {row['title']}")
        for phase in row["phases"]:
            print(f"  {row['study']}.{phase['code']}  {phase['name']}: {phase['question']}")
    return DONE


def _config(arguments: argparse.Namespace) -> int:
    from inscape.core.config import to_yaml, with_overrides
    from inscape.core.corpus import corpus_of

    study, phases = _study_and_phases(arguments.target)
    if "." not in arguments.target:
        raise ValueError(f"name one phase: {', '.join(f'{study.name}.{p.code}' for p in phases)}")
    (phase,) = phases
    config = with_overrides(phase.preset(arguments.preset, corpus_of(arguments.overrides)), arguments.overrides)
    print(to_yaml(config), end="")
    for line in phase.beside(config) if phase.beside else ():
        print(f"# {line}".rstrip())  # a comment, so that what is printed stays YAML
    return DONE


def _encode(arguments: argparse.Namespace) -> int:
    from inscape.codec_verbs import encode_verb

    encode_verb(arguments)
    return DONE


def _decode(arguments: argparse.Namespace) -> int:
    from inscape.codec_verbs import decode_verb

    decode_verb(arguments)
    return DONE


def _paraphrase(arguments: argparse.Namespace) -> int:
    from inscape.codec_verbs import paraphrase_verb

    paraphrase_verb(arguments)
    return DONE


def _embed(arguments: argparse.Namespace) -> int:
    from inscape.codec_verbs import embed_verb

    embed_verb(arguments)
    return DONE


def _similarity(arguments: argparse.Namespace) -> int:
    from inscape.codec_verbs import similarity_verb

    similarity_verb(arguments)
    return DONE


def _export(arguments: argparse.Namespace) -> int:
    from inscape.export import export

    print(export(arguments.format, arguments.out, arguments.weights))
    return DONE


def _explore(arguments: argparse.Namespace) -> int:
    from inscape.explore.server import serve

    serve(arguments.port, arguments.host, arguments.weights, arguments.out)
    return DONE


def _bench(arguments: argparse.Namespace) -> int:
    from inscape.bench import measure

    result = measure(arguments.name)
    if arguments.json:
        _print_json(result)
    else:
        for key, value in result.items():
            print(f"{key:>28}  {value:.4g}" if isinstance(value, float) else f"{key:>28}  {value}")
    return DONE


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=1, allow_nan=False))
