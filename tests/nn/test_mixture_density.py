"""The mixture-density network against torch.distributions, in a world with two answers and in an empty one."""

import pytest
import torch
from torch import distributions as dist

from inscape.nn.context_encoder import Steps
from inscape.nn.mixture_density import DiagonalGaussian, MixtureDensity

W, D = 3, 4


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two_answers(count: int, seed: int) -> Steps:
    """The step is plus or minus the newest frame, in units a thousand times smaller."""
    context_NWD = noise(count, W, D, seed=seed)
    sign_N1 = noise(count, 1, seed=seed + 1).sign()
    return Steps(context_NWD, 1e-3 * (sign_N1 * context_NWD[:, -1] + 0.1 * noise(count, D, seed=seed + 2)))


def trained(steps: Steps, updates: int = 300) -> MixtureDensity:
    torch.manual_seed(0)
    model = MixtureDensity(W, D, hidden=64, layers=2, components=4)
    model.measure([steps])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(updates):
        rows = torch.randint(0, len(steps.delta_ND), (256,))
        optimizer.zero_grad()
        model.nll(model(steps.context_NWD[rows]), steps.delta_ND[rows]).mean().backward()
        optimizer.step()
    return model.eval()


def gain(model: MixtureDensity, steps: Steps) -> float:
    with torch.no_grad():
        return float((model.nll(model(steps.context_NWD), steps.delta_ND) - model.baseline_nll(steps.delta_ND)).mean())


def test_nll_is_that_of_torchs_mixture():
    torch.manual_seed(1)
    model = MixtureDensity(W, D, hidden=8, components=5)
    torch.nn.init.normal_(model.log_sigmas.weight)
    steps = Steps(noise(50, W, D), 1e2 * noise(50, D, seed=1) + 7)
    model.measure([steps])
    found = model(steps.context_NWD)
    mean, sigma = model.gaussian.mean_D, model.gaussian.sigma_D
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=found.log_weight_NK),
        dist.Independent(dist.Normal(mean + sigma * found.mean_NKD, sigma * found.log_sigma_NKD.exp()), 1),
    )
    expected = -mixture.log_prob(steps.delta_ND).double()
    torch.testing.assert_close(model.nll(found, steps.delta_ND), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(model.step(found), mixture.mean, rtol=1e-4, atol=1e-3)
    gaussian = dist.Independent(dist.Normal(steps.delta_ND.mean(0), steps.delta_ND.std(0, correction=0)), 1)
    torch.testing.assert_close(
        model.baseline_nll(steps.delta_ND), -gaussian.log_prob(steps.delta_ND).double(), rtol=1e-5, atol=1e-3
    )


def test_finds_both_answers():
    model = trained(two_answers(4000, 0))
    assert gain(model, two_answers(2000, 10)) < -3.0  # one Gaussian around the truth cannot gain anything here


def test_gains_nothing_in_an_empty_world():
    steps = Steps(noise(4000, W, D), noise(4000, D, seed=5))
    assert gain(trained(steps, 150), Steps(noise(2000, W, D, seed=7), noise(2000, D, seed=8))) > -0.02


def test_log_sigma_starts_at_minus_one_and_stays_inside_its_bounds():
    model = MixtureDensity(W, D, hidden=8)
    assert model(noise(5, W, D)).log_sigma_NKD.flatten().tolist() == pytest.approx([-1.0] * 5 * 8 * D, abs=1e-5)
    torch.nn.init.constant_(model.log_sigmas.bias, 1e4)
    found = model(noise(5, W, D)).log_sigma_NKD
    assert found.max() <= 2
    assert torch.autograd.grad(found.sum(), model.log_sigmas.bias)[0].min() > 0, "a hard clamp would be flat here"


def test_a_dimension_that_never_moves_is_floored():
    gaussian = DiagonalGaussian(2)
    gaussian.measure([Steps(torch.zeros(3, W, 2), torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]))])
    assert gaussian.sigma_D.tolist() == pytest.approx([(2 / 3) ** 0.5, 1e-6])
    assert gaussian.nll(torch.tensor([[2.0, 5.0]])).isfinite().all()


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="components"):
        MixtureDensity(W, D, components=0)
    with pytest.raises(ValueError, match="not finite"):
        DiagonalGaussian(2).measure([Steps(torch.zeros(1, W, 2), torch.tensor([[torch.inf, 0.0]]))])
