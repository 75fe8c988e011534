"""Several processes with all weights or a shard each: the steps of one process, and checkpoints that any number reads.

torch's FSDP2 runs on CPUs over gloo, so real processes exchange real shards here.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from toy_processes import Blocks, fit_blocks, make_blocks, threads_after_training, train_blocks
from toy_training import finish, free_port, start

from inscape import checkpoint, train
from inscape.core.rundir import RunDir
from inscape.device import Processes
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.optimization import FitConfig
from inscape.parallel import Replicated, blocks_of, hold_weights

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals and fork servers are POSIX"),
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"),
]

SHARDS = [f"{part}-0000{i}-of-00002.safetensors" for part in ("ema", "model", "optim") for i in (1, 2)]
WHOLE = ["ema.safetensors", "model.safetensors", "optim.safetensors"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training in one process, never disturbed."""
    path = tmp_path_factory.mktemp("alone") / "run"
    fit_blocks(path)
    return path


def assert_same_weights(path: Path, expected: Path, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Model, average and optimizer state after the last step."""
    found, wanted = (checkpoint.read_checkpoint(p / "checkpoints/step_40") for p in (path, expected))
    for part in ("model", "ema", "optim"):
        ours, theirs = getattr(found, part), getattr(wanted, part)
        assert ours.keys() == theirs.keys()
        for name in theirs:
            torch.testing.assert_close(
                ours[name], theirs[name], rtol=rtol, atol=atol, msg=lambda why, n=f"{part} {name}": f"{n}: {why}"
            )


def names(path: Path, step: int) -> list[str]:
    return sorted(p.name for p in (path / f"checkpoints/step_{step}").glob("*.safetensors"))


# --- the steps ----------------------------------------------------------------------------------------------------


def test_two_processes_with_shards_take_the_steps_of_one(tmp_path: Path, unbroken: Path) -> None:
    told = train_blocks(tmp_path, 2, {"parallel": "shard"})
    assert told[0] == told[1], "every process gets the whole model and the whole average back"
    assert_same_weights(tmp_path / "run", unbroken)
    together, alone = RunDir(tmp_path / "run").read_log(), RunDir(unbroken).read_log()
    for one, two in zip(alone, together, strict=True):
        assert one["step"] == two["step"]
        if one["kind"] == "train":
            assert one["terms"] == pytest.approx(two["terms"], rel=1e-4)
            assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)
            assert one["grad_norm"] > 0.3, "clipping is put to the test"
        else:
            assert one["error"] == pytest.approx(two["error"], rel=1e-4)


def test_muon_moves_whole_matrices_also_after_another_number_of_processes(tmp_path: Path) -> None:
    muon = {"optimizer": "muon", "weight_decay": 0.3}
    fit_blocks(tmp_path / "alone", **muon)
    train_blocks(tmp_path, 1, muon | {"parallel": "shard"}, stop=10)
    told = train_blocks(tmp_path, 2, muon | {"parallel": "shard"})
    assert told[0] == told[1]
    # Muon multiplies in bfloat16, so a last bit of a gradient shows in the third digit of an update.
    assert_same_weights(tmp_path / "run", tmp_path / "alone", rtol=2e-2, atol=2e-3)


def test_each_process_saves_its_own_rows(tmp_path: Path) -> None:
    train_blocks(tmp_path, 2, {"parallel": "shard", "steps": 6, "accumulate": 2})
    folder = tmp_path / "run/checkpoints/step_6"
    assert names(tmp_path / "run", 6) == SHARDS
    first, second = (checkpoint.load_weights(folder / f"optim-0000{i}-of-00002.safetensors") for i in (1, 2))
    assert (len(first["exp_avg/first.weight"]), len(second["exp_avg/first.weight"])) == (3, 2)
    assert "exp_avg/gain" in first
    assert "exp_avg/gain" not in second, "one row has one owner"
    assert "step/gain" in first
    files = json.loads((folder / "state.json").read_text())["files"]
    assert files["model-00002-of-00002.safetensors"]["slices"]["first.weight"] == [3, 5]
    alone = fit_blocks(tmp_path / "alone", steps=6, accumulate=2)
    found = checkpoint.read_checkpoint(folder)
    for name, weights in alone.model.state_dict().items():
        torch.testing.assert_close(found.model[name], weights, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux's /proc")
def test_no_thread_of_the_exchange_outlives_the_training(tmp_path: Path) -> None:
    """One that lets go of a tensor while the interpreter ends takes the process down with it."""
    port = free_port()
    ranks = [start(threads_after_training, tmp_path, rank, 2, port) for rank in range(2)]
    assert [finish(process) for process in ranks] == [0, 0]
    for rank in range(2):
        found = (tmp_path / f"threads{rank}.txt").read_text().splitlines()
        assert found
        assert not [name for name in found if "gloo" in name]


# --- other numbers of processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "modes",
    [("replicate", "replicate", "replicate"), ("shard", "shard", "shard"), ("replicate", "shard", "shard")],
    ids=lambda modes: "-".join(modes),
)
def test_two_processes_then_one_then_two_end_like_an_unbroken_run(
    tmp_path: Path, unbroken: Path, modes: tuple[str, ...]
) -> None:
    told = train_blocks(tmp_path, 2, {"parallel": modes[0]}, stop=10)
    assert told == [f"TrainingInterrupted: stopped after step 14 of 40, and saved; {going_on(tmp_path)}"] * 2
    assert names(tmp_path / "run", 14) == (SHARDS if modes[0] == "shard" else WHOLE)
    told = train_blocks(tmp_path, 1, {"parallel": modes[1]}, stop=22)
    assert told == [f"TrainingInterrupted: stopped after step 23 of 40, and saved; {going_on(tmp_path)}"]
    assert names(tmp_path / "run", 23) == WHOLE
    told = train_blocks(tmp_path, 2, {"parallel": modes[2]})
    assert told[0] == told[1]
    assert_same_weights(tmp_path / "run", unbroken)
    notices = [line["text"] for line in RunDir(tmp_path / "run").read_log() if line["kind"] == "notice"]
    assert [("processes 2 became 1" in text, "processes 1 became 2" in text) for text in notices] == [
        (True, False),
        (False, True),
    ]


def going_on(path: Path) -> str:
    return f"continue with: inscape resume {path / 'run'}"


def test_shards_are_continued_whole(tmp_path: Path, unbroken: Path) -> None:
    """By two processes that hold all weights each; the other way round is above."""
    train_blocks(tmp_path, 2, {"parallel": "shard"}, stop=10)
    told = train_blocks(tmp_path, 2, {"parallel": "replicate"})
    assert told[0] == told[1]
    assert names(tmp_path / "run", 40) == WHOLE
    assert_same_weights(tmp_path / "run", unbroken)


# --- damage, full disks, weights that are not finite --------------------------------------------------------------


def lose(folder: Path) -> str:
    (folder / "optim-00002-of-00002.safetensors").unlink()
    return "optim-00002-of-00002.safetensors is missing"


def truncate(folder: Path) -> str:
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    return "model-00002-of-00002.safetensors has"


def flip(folder: Path) -> str:
    file = folder / "ema-00001-of-00002.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 0x10
    file.write_bytes(content)
    return "ema-00001-of-00002.safetensors is not what was written"


def exchange(folder: Path) -> str:
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
    return "model-00002-of-00002.safetensors has"


def test_a_checkpoint_with_a_damaged_shard_is_set_aside_and_the_one_before_is_used(
    tmp_path: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_blocks(tmp_path, 2, {"parallel": "shard"}, stop=10)
    folder = tmp_path / "run/checkpoints"
    for damage in (lose, truncate, flip, exchange):
        copied = tmp_path / damage.__name__
        shutil.copytree(folder, copied)
        said: list[str] = []
        what = damage(copied / "step_14")
        found = checkpoint.latest_checkpoint(copied, said.append)
        assert found is not None
        assert found.step == 12
        assert len(said) == 1
        assert what in said[0]
        assert said[0].endswith("set aside as step_14.damaged")
    lose(folder / "step_14")
    fit_blocks(tmp_path / "run", parallel="shard")
    assert "set aside as step_14.damaged" in capsys.readouterr().err
    assert_same_weights(tmp_path / "run", unbroken)


def test_a_full_disk_of_one_process_stops_all_and_loses_nothing(tmp_path: Path) -> None:
    told = train_blocks(tmp_path, 2, {"parallel": "shard"}, full=19)
    assert all(text.startswith("DiskFull: ") and "what was saved before is whole" in text for text in told), told
    assert "process 1: [Errno 28] No space left on device" in told[0]
    folder = tmp_path / "run/checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["step_15", "step_18"]
    assert checkpoint.read_checkpoint(folder / "step_18").step == 18


def test_a_weight_that_is_not_finite_in_one_shard_is_never_saved(tmp_path: Path) -> None:
    told = train_blocks(tmp_path, 2, {"parallel": "shard"}, spoil=4)
    assert told[0] == told[1]
    assert told[0].startswith("TrainingDiverged: model weight 'spare.0.up.weight' became nan in step 6")
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step_3"]


# --- the format, without processes --------------------------------------------------------------------------------


def test_a_tensor_of_which_rows_are_missing_is_damaged(tmp_path: Path) -> None:
    part: dict[str, Any] = {"w": checkpoint.Slice(torch.ones(2, 3), 1, 4)}
    path = checkpoint.save_checkpoint(tmp_path, 1, {"model": part, "ema": {}, "optim": {}}, {}, 1)
    with pytest.raises(ValueError, match=r"is damaged: w is not whole$"):
        checkpoint.read_checkpoint(path)


# --- what is wrapped, what is refused -----------------------------------------------------------------------------


def test_blocks_are_the_layers_of_the_codec() -> None:
    with torch.device("meta"):
        sizes: Any = {"d": 16, "heads": 2, "ffn": 24}
        encoder = LatentEncoderConfig(vocab=9, layers=2, head="light", head_ffn=8, coarse=4, C=3, H=8, W=8, **sizes)
        model = LatentCodec(encoder, LatentCodecConfig(**sizes, reader_layers=1, decoder_layers=3, z=8))
    name_of = {module: name for name, module in model.named_modules()}
    found = {name_of[block].rsplit(".", 1)[0] for block in blocks_of(model)}
    assert {"encoder.text_encoder.layers", "reader.layers", "decoder.layers"} <= found
    assert sum(name_of[block].startswith("decoder.layers.") for block in blocks_of(model)) == 3


def test_a_block_that_shares_a_weight_with_the_outside_is_none() -> None:
    model = make_blocks()
    assert set(blocks_of(model)) == {*model.blocks, *model.spare}
    assert blocks_of(nn.ModuleList([nn.Linear(2, 2)])) == [], "a layer without parts is left to the whole"
    model.again.weight = model.blocks[0].up.weight  # type: ignore[union-attr]
    assert set(blocks_of(model)) == {model.blocks[1], *model.spare}


def test_inner_blocks_come_first() -> None:
    outer = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Sequential(nn.Linear(2, 2))]))])
    inner = outer[0][1][0]  # type: ignore[index]
    assert blocks_of(outer) == [inner, outer[0]]


TWO = Processes(0, 2)


def test_single_numbers_are_refused_with_shards() -> None:
    model = make_blocks()
    model.register_parameter("number", nn.Parameter(torch.ones(())))
    with pytest.raises(ValueError, match=r"^parameter number is one number .*; use parallel=replicate$"):
        hold_weights(model, FitConfig(steps=1, parallel="shard"), TWO)


def test_alone_there_is_nothing_to_shard() -> None:
    assert isinstance(hold_weights(Blocks(), FitConfig(steps=1, parallel="shard"), Processes()), Replicated)


@pytest.mark.parametrize(("field", "value"), [("parallel", "pipeline"), ("compile", True)])
def test_settings_that_cannot_be(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field}={value!r} is out of range; allowed: .+"):
        train.FitConfig(**{"steps": 1, "parallel": "shard", field: value})
