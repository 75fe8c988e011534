"""Whether committed evidence was judged and made as its phase is declared today, and stands on evidence that was.

A gate that was made stricter, or a config that was changed, leaves evidence behind that opens nothing any more, and
whatever was built on it neither: a table that shows its verdict has to say so.
"""

from collections.abc import Sequence
from pathlib import Path

from inscape.core.config import fingerprint, with_changes
from inscape.core.rundir import RunDir
from inscape.core.standing import declaration, flaw_of, gate_of_run, with_remedies
from inscape.core.study import Study
from inscape.report.record import Record

__all__ = ["EARLIER", "earlier"]

EARLIER = ("by an earlier gate", "by an earlier config", "built on what no longer counts")


def earlier(record: Record, studies: Sequence[Study], root: Path) -> str:
    """One of `EARLIER`, the first that holds; empty if none does, or the study or the record is no more.

    root: the folder of the evidence, in which what a run was built on is looked for. The config is compared where
    nothing was overridden: evidence does not tell the paths of the files it was made of.
    """
    by_gate, by_config, built_on = EARLIER
    study = next((each for each in studies if each.name == record.study), None)
    if study is None or record.phase not in {phase.code for phase in study.phases}:
        return ""
    phase, run = study.phase(record.phase), RunDir(record.path)
    try:
        gate, overrides, corpus = gate_of_run(run), dict(record.env["overrides"]), tuple(record.env.get("corpus", ()))
    except (ValueError, KeyError, TypeError, OSError):
        return ""  # damaged: the table says that in other words
    try:
        preset = with_changes(phase.preset(record.preset, corpus), overrides)
        config = with_remedies(phase, preset, record.env["remedies"])
        of_today = phase.gate_of(config)
    except (ValueError, KeyError, TypeError, IndexError, OSError):
        return by_config  # it cannot be asked for any more
    if gate != of_today or not declaration(phase.on(corpus)).items() <= record.env.items():
        return by_gate
    if not overrides and record.env.get("fingerprint") != fingerprint(config):
        return by_config
    if not record.declared:
        return ""  # it opens nothing anyway, and shows what was changed
    return built_on if flaw_of(study, phase, run, root).startswith("was built on") else ""
