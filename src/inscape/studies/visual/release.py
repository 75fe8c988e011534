"""Weights that ship with the package: made from a finished P5 run, with a card that says what they are.

python -m inscape.studies.visual.release RUN --out src/inscape/weights
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from inscape.core.rundir import RunDir, run_name, write_atomically
from inscape.core.standing import judge
from inscape.studies.visual.model import load_codec, save_codec

__all__ = ["card", "limits", "main", "release"]

LARGEST = 12_000_000  # bytes: what a package may carry
MOSTLY = 0.5  # share of sentences that come back word for word, below which the card warns
SHOWN = (
    "sentence_exact_1_fact",
    "sentence_exact_2_facts",
    "sentence_exact_3_facts",
    "graph_f1_1_fact",
    "graph_f1_2_facts",
    "graph_f1_3_facts",
    "graph_f1_in_grammar_1_fact",
    "graph_f1_in_grammar_2_facts",
    "graph_f1_in_grammar_3_facts",
    "five_paraphrases_1_fact",
    "five_paraphrases_2_facts",
    "five_paraphrases_3_facts",
)


def card(run: RunDir) -> str:
    """The model card, in Markdown: data, recipe, commits, gates, limits.

    ValueError if a run of the ladder was pushed past a shut gate.
    """
    env, ladder = run.read_json(RunDir.ENV), _ladder(run)
    parameters = sum(p.numel() for p in load_codec(run.path).model.parameters())
    rows = []
    for step in ladder:
        made = step.read_json(RunDir.ENV)
        if made["phase"] == "P0":  # it looks at the corpus, and trains nothing
            continue
        verdict = judge(step)
        commit = str(made.get("git_commit", "unknown"))[:12]
        commit += " and changes that were not committed" if made.get("git_dirty") else ""
        outcomes = f"{verdict.outcome_of('plan')} | {verdict.outcome_of('calibrated')}"
        rows.append(f"| {made['phase']} | {outcomes} | {run_name(step)} | {commit} |")
    measured = {
        name: f"{fields['value']:.4f} [{fields['low']:.4f}, {fields['high']:.4f}], n = {fields['n']}"
        for name, fields in (run.read_json(RunDir.METRICS) or {}).items()  # an earlier phase measured other weights
        if name in SHOWN and fields["value"] is not None
    }
    figures = "\n".join(f"| {name.replace('_', ' ')} | {measured[name]} |" for name in SHOWN if name in measured)
    return f"""# inscape visual codec, preset {env["preset"]}, seed {env["seed"]}

Sentence to picture (6 x 32 x 32) to sentence. Trained on text alone: the scene grammar of `inscape.data.scenes`, whose
training split leaves out 5.6 % of the combinations of colour, shape and relation. No image and no foreign weights.

    from inscape import VisualCodec
    codec = VisualCodec.from_pretrained()
    codec.decode(codec.encode(["a red ball is on the blue block"]))

* Recipe, a command a phase, each at its commit below:

{chr(10).join(f"      {_command(step)}" for step in ladder)}

* Weights: {parameters:,} parameters, float16 of the running average after P5; made by
  `python -m inscape.studies.visual.release`
* Licence: Apache-2.0, as the package

| phase | plan's gate | calibrated gate | run | commit |
|---|---|---|---|---|
{chr(10).join(rows)}

Held-out combinations, free-running; what the codec's `paraphrase` says is sampled under the grammar:

| | value [95 % interval] |
|---|---|
{figures}

{limits(measured)}"""


def limits(measured: Mapping[str, str]) -> str:
    """The card's last lines: what not to expect. measured: the figures above them, by name, in words."""
    text = """\
Limits: it knows the scene grammar and nothing else. Other English can be encoded, with a warning; what comes back is
not to be relied on: often nothing, or no sentence of the grammar. `decode(V, constrained=True)` keeps it inside the
grammar, which does not make it what was said.
"""
    for count, facts in enumerate(("one fact", "two facts", "three facts"), 1):
        share = measured.get(f"sentence_exact_{count}_fact{'s' if count > 1 else ''}", "1").split()[0]
        if float(share) < MOSTLY:
            text += (
                f"Sentences of {facts} are mostly not read back: {float(share):.2f} of them come back word for word.\n"
            )
    return text


def _ladder(run: RunDir) -> list[RunDir]:
    """The runs that this one builds on, P0 first, and itself; ValueError if one was pushed past a shut gate."""
    found, at = [run], run
    while inputs := at.read_json(RunDir.ENV)["inputs"]:
        at = RunDir.open(next(iter(inputs.values())))
        found.insert(0, at)
    for step in found:
        if why := step.read_json(RunDir.ENV)["despite_gate"]:
            raise ValueError(f"{step.path} was pushed past a shut gate ({why}); give a run whose gates were open")
    return found


def _command(step: RunDir) -> str:
    """What was typed for a run, its remedies in words behind it."""
    env = step.read_json(RunDir.ENV)
    words = ["inscape", "run", f"{env['study']}.{env['phase']}", "--preset", env["preset"], "--seed", str(env["seed"])]
    words += [f"{key}={value}" for key, value in env["overrides"].items()]
    if not env["remedies"]:
        return shlex.join(words)
    why = env.get("about", {}).get("remedies", [])
    taken = "; ".join(why[i] if i < len(why) else f"number {i}" for i in env["remedies"])
    return f"{shlex.join([*words, '--remedy'])}  # taken: {taken}"


def release(run: RunDir, folder: Path) -> Path:
    """Write `visual-<preset>.safetensors` and its card into `folder`; ValueError if the file would be too large."""
    text, preset = card(run), run.read_json(RunDir.ENV)["preset"]
    path = folder / f"visual-{preset}.safetensors"
    save_codec(load_codec(run.path), path, about=text, half=True)
    if path.stat().st_size > LARGEST:
        size = path.stat().st_size
        path.unlink()
        raise ValueError(f"the weights take {size:,} bytes; allowed: {LARGEST:,}. Make the model smaller")
    write_atomically(path.with_suffix(".md"), text)
    return path


def main(words: Sequence[str] | None = None) -> int:
    """The command above; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m inscape.studies.visual.release", description=__doc__)
    parser.add_argument("run", help="a finished P5 run")
    parser.add_argument("--out", type=Path, default=Path("src/inscape/weights"))
    arguments = parser.parse_args(words)
    try:
        run = RunDir.open(arguments.run)
        if not run.finished:
            raise ValueError(f"{run.path} is not finished; inscape resume {run.path}")
        print(release(run, arguments.out))
    except ValueError as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
