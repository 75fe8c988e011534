"""g(V): unit vectors; the plan's formula, which sees no places, and queries, which see them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from inscape.nn.jitter import shuffle_places
from inscape.nn.patch_reader import PatchReader
from inscape.nn.readout import PooledReadout, SpatialReadout


def pooled() -> PooledReadout:
    torch.manual_seed(0)
    return PooledReadout(3, 16, 8).eval()


class Spatial(nn.Module):
    """Reader and readout, as the codec has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reader = PatchReader(16, 2, 24, 0.0, latent_CHW=(3, 8, 8), side=4, layers=1)
        self.readout = SpatialReadout(16, 2, 24, 0.0, layers=1, queries=2, z=8)

    def forward(self, latent_BCHW: torch.Tensor) -> torch.Tensor:
        return self.readout(self.reader(latent_BCHW))


def latents(batch: int = 5) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.3


@pytest.mark.parametrize("kind", [pooled, Spatial])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_z_has_unit_norm_and_is_float32(kind, scale: float):
    model = kind().eval()
    with torch.autocast("cpu", torch.bfloat16):
        rounded_BZ = model(scale * latents())
    for z_BZ in (rounded_BZ, model(scale * latents())):
        assert z_BZ.dtype == torch.float32
        assert z_BZ.shape == (5, 8)
        torch.testing.assert_close(z_BZ.norm(dim=-1), torch.ones(5))


def test_pooled_is_the_plans_formula():
    model, latent_BCHW = pooled(), latents()
    rows = []
    for latent_CHW in latent_BCHW:
        mean = [float(plane.sum()) / 64 for plane in latent_CHW]
        variance = [float(((p - m) ** 2).sum()) / 63 for p, m in zip(latent_CHW, mean, strict=True)]
        hidden = functional.gelu(model.up.weight @ torch.tensor(mean + variance) + model.up.bias)
        out = model.down.weight @ hidden + model.down.bias
        rows.append(out / out.square().sum().sqrt())
    torch.testing.assert_close(model(latent_BCHW), torch.stack(rows), atol=1e-5, rtol=1e-5)


def test_shuffled_places_change_the_spatial_readout_and_not_the_pooled_one():
    latent_BCHW = latents()
    shuffled_BCHW = shuffle_places(latent_BCHW, 4, generator=torch.Generator().manual_seed(0))
    moved_B = (shuffled_BCHW != latent_BCHW).flatten(1).any(1)
    assert moved_B.sum() >= 4
    torch.testing.assert_close(pooled()(shuffled_BCHW), pooled()(latent_BCHW), atol=1e-5, rtol=1e-5)
    model = Spatial().eval()
    cosine_B = (model(shuffled_BCHW) * model(latent_BCHW)).sum(-1)
    assert cosine_B[moved_B].max() < 0.999
    with torch.no_grad():
        model.reader.position_PD.zero_()  # what it knows of places
    torch.testing.assert_close(model(shuffled_BCHW), model(latent_BCHW), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [pooled, Spatial])
def test_every_parameter_is_trained(kind):
    model = kind()
    (model(latents()) * torch.arange(8)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
