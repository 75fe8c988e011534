"""Whether a training may go on from a checkpoint, and what it does not keep when it does so elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from inscape.checkpoint import Checkpoint
from inscape.core.rundir import RunDir
from inscape.device import Processes, autocast_dtype
from inscape.optimization import FitConfig

__all__ = ["changes_of", "check_same_run", "circumstances"]

# Fields a run may change when it is continued: they decide what is written, not what is learned; where weights lie; and
# into how many batches a step is cut, which is said, for who halves a batch that memory cannot hold doubles their
# number.
FREE_FIELDS = ("log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "compile", "accumulate", "parallel")


def check_same_run(found: Checkpoint, config: FitConfig, seed: int, run: RunDir) -> None:
    """Refuse to continue a run under terms that would have made it another run."""
    asked = asdict(config) | {"seed": seed}
    made = found.state["config"] | {"seed": found.state["seed"]}
    changed = [name for name in made if name not in FREE_FIELDS and made[name] != asked[name]]
    if changed:
        listed = ", ".join(f"{name} {made[name]} became {asked[name]}" for name in changed)
        raise ValueError(
            f"the checkpoints in {run.path} belong to a training with other settings ({listed}); start anew"
        )


def circumstances(device: torch.device, config: FitConfig, processes: Processes) -> dict[str, Any]:
    """What may differ when a run is continued elsewhere, at the price of bit-equality."""
    return {
        "torch": torch.__version__,
        "device": device.type,
        "autocast": str(autocast_dtype(device, config.precision)),
        "threads": torch.get_num_threads(),
        "processes": processes.world,
        "accumulate": config.accumulate,
        "parallel": config.parallel,
        "compile": config.compile,
    }


def changes_of(found: Checkpoint, device: torch.device, config: FitConfig, processes: Processes) -> list[str]:
    """A notice of what is no longer as it was when the checkpoint was written, if anything."""
    now = circumstances(device, config, processes)
    before = now | found.state["circumstances"]  # an older checkpoint does not name all of them
    changed = ", ".join(f"{name} {before[name]} became {now[name]}" for name in now if before[name] != now[name])
    return [f"continued from step {found.step}, not bit for bit: {changed}"] if changed else []
