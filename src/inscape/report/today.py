"""Whether committed evidence was judged and made as its phase is declared today.

A gate that was made stricter, or a config that was changed, leaves evidence behind that opens nothing any more: a table
that shows its verdict has to say so.
"""

from collections.abc import Sequence
from typing import Any

from inscape.core.config import fingerprint, with_changes
from inscape.core.rundir import RunDir
from inscape.core.standing import gate_of_run, with_remedies
from inscape.core.study import Study
from inscape.report.record import Record

__all__ = ["earlier"]


def earlier(record: Record, studies: Sequence[Study]) -> str:
    """`gate` or `config` where the run's is not today's, the gate first; empty if both are, or nobody can say.

    The config is compared where nothing was overridden: evidence does not tell the paths of the files it was made of.
    """
    try:
        phase = next(s for s in studies if s.name == record.study).phase(record.phase)
        overrides: dict[str, Any] = dict(record.env["overrides"])
        preset = with_changes(phase.preset(record.preset, record.env.get("corpus", ())), overrides)
        config = with_remedies(phase, preset, record.env["remedies"])
        if gate_of_run(RunDir(record.path)) != phase.gate_of(config):
            return "gate"
        return "config" if not overrides and record.env["fingerprint"] != fingerprint(config) else ""
    except (StopIteration, ValueError, KeyError, TypeError, IndexError, OSError):
        return ""  # a study that is no more, or a record that is damaged: the table says that in other words
