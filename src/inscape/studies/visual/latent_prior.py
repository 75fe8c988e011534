"""The latent prior: P6's U-Net with the noise that it was trained under; on the disk, and at work on latents.

One safetensors file holds weights, sizes, the noise process, the latents' mean and standard deviation, and which codec
it belongs to. It lies beside that codec: with another one it means nothing.

Legend: B latents, C channels, H, W of the latent.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from inscape.checkpoint import load_weights, weights_of
from inscape.core.rundir import write_atomically
from inscape.nn.diffusion import Diffusion, NoiseProcess, Schedule, noise_process
from inscape.nn.unet import UNet, UNetConfig
from inscape.studies.visual.model import CODEC_WEIGHTS, MODEL_WEIGHTS, fingerprint, refuse_broken_weights
from inscape.user_paths import is_there

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["PRIOR_WEIGHTS", "LatentPrior", "Noise", "denoised", "load_prior", "prior_beside", "sampled", "save_prior"]

PRIOR_WEIGHTS = "prior.safetensors"  # beside a codec's weights
PRIOR_KIND = "inscape visual latent prior 1"
BATCH = 64  # latents at a time


@dataclass(frozen=True)
class Noise:
    """The noise process, in words; `output` and `gamma` act with diffusion only."""

    process: str = "cosine"  # cosine | linear (diffusion) | flow (flow matching)
    output: str = "velocity"  # velocity | noise: what the U-Net's output is read as; noise is what is learned
    gamma: float = 5.0  # min-SNR bound of the loss weights

    def __post_init__(self) -> None:
        self.make()

    def make(self) -> NoiseProcess:
        """The process itself; ValueError for an unknown word or a setting out of range."""
        diffusion = Diffusion(Schedule(), self.output, self.gamma)  # its messages, whatever the process
        if self.process == "flow":
            return noise_process(self.process)
        noise_process(self.process)
        return dataclasses.replace(diffusion, schedule=Schedule(self.process))


class LatentPrior(NamedTuple):
    """A trained U-Net and how noise was put on what it was trained on."""

    net: UNet
    noise: Noise
    codec: str = ""  # `fingerprint` of the codec that reads its latents; empty where nobody said


def denoised(
    prior: LatentPrior, latent_BCHW: Float[Tensor, "B C H W"], level: float, seed: int
) -> Float[Tensor, "B C H W"]:
    """The latents, noised to `level` and cleaned by one step, on the CPU; the same for one seed."""
    process, device, generator = prior.noise.make(), _device(prior), torch.Generator().manual_seed(seed)
    parts = []
    for part in latent_BCHW.split(BATCH):
        placed = generator if device.type == "cpu" else torch.Generator(device).manual_seed(_next_seed(generator))
        parts.append(process.denoise(prior.net, part.to(device), level, placed).cpu())
    return torch.cat(parts)


def sampled(
    prior: LatentPrior, count: int, size: tuple[int, int, int], steps: int, seed: int
) -> Float[Tensor, "B C H W"]:
    """`count` latents of (C, H, W) `size` out of noise, in `steps` steps, on the CPU; the same for one seed.

    ValueError for channels or sides that the U-Net does not take, or for steps out of range.
    """
    process, device, generator = prior.noise.make(), _device(prior), torch.Generator().manual_seed(seed)
    config = prior.net.config
    if size[0] != config.channels or any(side % config.divisor for side in size[1:]):
        raise ValueError(
            f"the prior was trained on latents of {config.channels} channels with sides that are multiples of "
            f"{config.divisor}; this codec's are {' x '.join(map(str, size))}: give the codec that it was trained with"
        )
    parts = []
    for start in range(0, count, BATCH):
        placed = torch.Generator(device).manual_seed(_next_seed(generator))
        drawn = process.sample(prior.net, (min(BATCH, count - start), *size), steps, placed)
        parts.append(drawn.cpu())
    return torch.cat(parts)


def save_prior(prior: LatentPrior, path: Path, *, about: str = "") -> None:
    """Write the prior; `about` is kept with it, in words."""
    metadata = {
        "kind": PRIOR_KIND,
        "config": json.dumps(dataclasses.asdict(prior.net.config)),
        "noise": json.dumps(dataclasses.asdict(prior.noise)),
        "codec": prior.codec,
        "about": about,
    }
    write_atomically(path, save(weights_of(prior.net), metadata))


def load_prior(path: Path, codec: nn.Module | None = None) -> LatentPrior:
    """Read a prior from its file or folder; ValueError in one line if it is missing, damaged or foreign.

    codec: that its latents are for; ValueError if it was trained with another. A file that does not say is believed.
    """
    path = Path(path)
    file = path / PRIOR_WEIGHTS if is_there(path) and path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give a finished run of visual.P6, or a folder with {PRIOR_WEIGHTS}")
    tensors = load_weights(file)
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if metadata.get("kind") != PRIOR_KIND:
        raise ValueError(f"{file} holds {metadata.get('kind', 'weights of unknown kind')!r}; wanted {PRIOR_KIND!r}")
    try:
        config = json.loads(metadata["config"])
        net = UNet(UNetConfig(**config | {"multipliers": tuple(config["multipliers"])}))
        net.load_state_dict(tensors)
        noise = Noise(**json.loads(metadata["noise"]))
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{file} is damaged or of another version: {str(error).splitlines()[0]}") from None
    refuse_broken_weights(file, net)
    found = LatentPrior(net.eval().requires_grad_(False), noise, metadata.get("codec", ""))
    if codec is not None and found.codec and found.codec != fingerprint(codec):
        raise ValueError(f"{file} was trained with another codec: give the codec that it was trained with")
    return found


def prior_beside(weights: Path) -> Path | None:
    """The prior in a codec's folder, or beside its file; None if there is none.

    Beside codec.safetensors and model.safetensors, which have a folder to themselves, it is prior.safetensors; beside
    any other NAME.safetensors, NAME-prior.safetensors.
    """
    if weights.is_dir():
        file = weights / PRIOR_WEIGHTS
    elif weights.name in (CODEC_WEIGHTS, MODEL_WEIGHTS):
        file = weights.with_name(PRIOR_WEIGHTS)
    else:
        file = weights.with_name(f"{weights.stem}-{PRIOR_WEIGHTS}")
    try:
        return file if file.is_file() else None
    except OSError:  # its name is longer than that of the weights, and may be too long
        return None


def _device(prior: LatentPrior) -> torch.device:
    return next(prior.net.parameters()).device


def _next_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))
