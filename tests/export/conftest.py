"""The shipped codec, what every format makes of it, and a tiny codec that nothing was taught.

The browser of tests/explore is seen from here as well.
"""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from inscape import VisualCodec
from inscape.export import export
from inscape.nn.latent_codec import LatentCodec, LatentCodecConfig
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.studies.visual.model import TrainedCodec

sys.path.insert(0, str(Path(__file__).parent.parent / "explore"))

TINY = {"vocab": 486, "d": 32, "layers": 1, "heads": 2, "ffn": 32, "head_ffn": 32, "map_channels": 4, "coarse": 4}


@pytest.fixture(scope="session")
def shipped() -> VisualCodec:
    return VisualCodec.from_pretrained()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    """The folder of a format, and what was said of it."""

    @cache
    def folder(format: str) -> tuple[Path, str]:
        out = tmp_path_factory.mktemp(format) / "model"
        return out, export(format, out)

    return folder


@pytest.fixture(scope="session")
def tiny(shipped: VisualCodec) -> Callable[..., TrainedCodec]:
    """Build one with the given head of the encoder and readout of the codec."""

    def build(head: str = "light", readout: str = "spatial", **encoder: int | bool) -> TrainedCodec:
        torch.manual_seed(0)
        sizes = LatentEncoderConfig(**(TINY | {"head": head} | encoder))
        config = LatentCodecConfig(32, 2, 32, patch=8, reader_layers=1, decoder_layers=2, readout=readout, z=16)
        return TrainedCodec(LatentCodec(sizes, config).eval(), shipped.trained.tokenizer)

    return build
