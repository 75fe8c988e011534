"""The shipped codec with a latent prior beside it that has learned nothing: its samples are other noise."""

import shutil
from pathlib import Path

import torch

from inscape.codec import SHIPPED, VisualCodec
from inscape.nn.unet import UNet, UNetConfig
from inscape.studies.visual.latent_prior import LatentPrior, Noise, save_prior


def sampling_weights(folder: Path) -> Path:
    """The weights file, with the prior beside it."""
    file = folder / SHIPPED.name
    shutil.copy(SHIPPED, file)
    torch.manual_seed(0)
    net = UNet(UNetConfig(width=8, multipliers=(1,), heads=1, groups=1))
    save_prior(LatentPrior(net, Noise()), folder / f"{file.stem}-prior.safetensors")
    return file


def sampling_codec(folder: Path) -> VisualCodec:
    """The codec of `sampling_weights`."""
    return VisualCodec.from_pretrained(sampling_weights(folder))
