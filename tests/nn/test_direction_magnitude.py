"""The direction-magnitude head against scipy's densities, in planted and empty worlds, and under 200 hard inputs."""

import numpy as np
import pytest
import torch
from scipy.stats import lognorm, vonmises_fisher

from inscape.nn import vmf
from inscape.nn.context_encoder import Steps
from inscape.nn.direction_magnitude import DirectionMagnitude, StepDistribution
from inscape.nn.mixture_density import MixtureDensity

W, D = 3, 8


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def batches(steps: Steps, parts: int = 4) -> list[Steps]:
    return [Steps(*both) for both in zip(steps.context_NWD.chunk(parts), steps.delta_ND.chunk(parts), strict=True)]


def measured(steps: Steps, **sizes: int) -> DirectionMagnitude:
    torch.manual_seed(0)
    model = DirectionMagnitude(steps.context_NWD.shape[1], steps.context_NWD.shape[2], **{"hidden": 16} | sizes)
    model.measure(batches(steps))
    return model


def back_to_the_middle(count: int, seed: int = 0, spread: float = 0.3) -> Steps:
    """The step points away from the newest frame, with a log-length that follows the frame's first coordinate."""
    context_NWD = noise(count, W, D, seed=seed)
    towards = unit(-unit(context_NWD[:, -1]) + 0.7 * unit(noise(count, D, seed=seed + 1)))
    log_length = 0.5 * context_NWD[:, -1, 0] + spread * noise(count, seed=seed + 2)
    return Steps(context_NWD, log_length.exp()[:, None] * towards)


def test_nll_is_scipys():
    model = measured(back_to_the_middle(400))
    given = StepDistribution(
        torch.tensor([0.5, 3.0, 6.0]), unit(noise(3, D)), torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.0, -1.0, 0.5])
    )
    delta = noise(3, D, seed=9)
    direction_N, length_N = model.parts(given, delta)
    m = delta.norm(dim=-1).double().numpy()
    for i in range(3):
        mean, d = (x[i].double().numpy() / np.linalg.norm(x[i].double()) for x in (given.direction_ND, delta))
        expected = -vonmises_fisher(mean, float(given.log_kappa_N[i].exp())).logpdf(d)
        assert float(direction_N[i]) == pytest.approx(expected, rel=1e-5)
        shape = lognorm(float(given.log_scale_N[i].exp()), scale=float(given.log_length_N[i].exp()))
        assert float(length_N[i]) == pytest.approx(-shape.logpdf(m[i]), rel=1e-5, abs=1e-5)
    expected = direction_N + length_N + (D - 1) * torch.from_numpy(np.log(m))
    torch.testing.assert_close(model.nll(given, delta), expected)


def test_the_density_integrates_to_one():
    # in the plane, by quadrature: the volume term (D - 1) ln m is what a density in R^D needs
    steps = Steps(noise(100, 2, 2), noise(100, 2, seed=1))
    model = measured(steps)
    axis = torch.linspace(-12, 12, 801, dtype=torch.float64) + 0.004
    grid = torch.cartesian_prod(axis, axis)
    given = StepDistribution(
        torch.full((1,), 0.7), torch.tensor([[0.6, 0.8]]), torch.full((1,), 0.3), torch.full((1,), -0.7)
    )
    total = (-model.nll(given, grid)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(total) == pytest.approx(1, abs=0.002)


def test_the_baseline_is_uniform_times_one_log_normal():
    steps = back_to_the_middle(1000)
    model = measured(steps)
    m = steps.delta_ND.norm(dim=-1).double()
    shape = lognorm(m.log().std(correction=0).item(), scale=m.log().mean().exp().item())
    expected = vmf.log_area(D) - shape.logpdf(m.numpy()) + (D - 1) * m.log().numpy()
    np.testing.assert_allclose(model.baseline_nll(steps.delta_ND).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_it_starts_at_the_regression_on_the_data_with_the_matching_concentration():
    model, unseen = measured(back_to_the_middle(4000)), back_to_the_middle(2000, seed=50)
    with torch.no_grad():
        given = model(unseen.context_NWD)
    cosine = float((given.direction_ND * unit(unseen.delta_ND)).sum(-1).mean())
    assert cosine > 0.75
    assert model.log_kappa.exp().item() == pytest.approx(vmf.concentration(cosine, D), rel=0.05)
    gain = model.nll(given, unseen.delta_ND) - model.baseline_nll(unseen.delta_ND)
    assert gain.mean() < -3
    error = (given.log_length_N - unseen.delta_ND.norm(dim=-1).log()).square().mean()
    assert error < 0.3**2 * 1.2  # what no predictor can know has the variance 0.3^2


def test_in_an_empty_world_it_starts_at_the_baseline():
    model = measured(Steps(noise(4000, W, D), noise(4000, D, seed=1)))
    context_NWD, delta_ND = noise(2000, W, D, seed=2), noise(2000, D, seed=3)
    with torch.no_grad():
        gain = model.nll(model(context_NWD), delta_ND) - model.baseline_nll(delta_ND)
    assert model.log_kappa.exp() < 0.3
    assert abs(float(gain.mean())) < 0.02


def test_with_fewer_samples_than_inputs_it_does_not_start_overconfident():
    # a direction that 256 inputs explain in part; judged on the samples it was fitted to, the regression looks better
    context_NWD = noise(300, 8, 32)
    towards = unit(-unit(context_NWD[:, -1]) + unit(noise(300, 32, seed=1)))
    model = measured(Steps(context_NWD, towards))
    with torch.no_grad():
        unseen = noise(2000, 8, 32, seed=2)
        cosine = (model(unseen).direction_ND * unit(-unit(unseen[:, -1]) + unit(noise(2000, 32, seed=3)))).sum(-1)
    reached = vmf.concentration(float(cosine.mean()), 32)
    assert 0.5 * reached < float(model.log_kappa.exp()) < 1.1 * reached


def test_median_and_mean_steps():
    model = measured(back_to_the_middle(400))
    given = StepDistribution(torch.zeros(1), unit(noise(1, D)), torch.tensor([0.4]), torch.tensor([-0.5]))
    assert model.step(given).norm().item() == pytest.approx(np.exp(0.4), rel=1e-5)
    assert model.mean_step(given).norm().item() == pytest.approx(
        lognorm(np.exp(-0.5), scale=np.exp(0.4)).mean(), rel=1e-5
    )


def test_steps_of_length_zero_are_not_scored():
    steps = back_to_the_middle(400)
    steps.delta_ND[::3] = 0
    model = measured(steps)
    given = model(steps.context_NWD)
    nll_N = model.nll(given, steps.delta_ND)
    still = torch.arange(400) % 3 == 0
    assert torch.equal(model.scored(steps.delta_ND), ~still)
    assert (nll_N[still] == 0).all()
    assert (model.baseline_nll(steps.delta_ND)[still] == 0).all()
    nll_N[still].sum().backward(retain_graph=True)
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())
    nll_N.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_nothing_is_clamped_flat():
    model = measured(back_to_the_middle(400))
    context_NWD = noise(16, W, D, seed=5)
    for wild in (1e3, -1e3):
        torch.nn.init.constant_(model.shape.bias, wild)
        nll = model.nll(model(context_NWD), 100 * noise(16, D, seed=6)).mean()
        assert nll.isfinite()
        (slope,) = torch.autograd.grad(nll, model.shape.bias)
        assert (slope != 0).all()


def test_where_the_direction_is_undecided_nothing_breaks():
    model = measured(back_to_the_middle(400))
    for parameter in (model.linear.weight, model.linear.bias, model.direction.bias):
        torch.nn.init.zeros_(parameter)
    given = model(noise(4, W, D))
    assert (given.direction_ND == 0).all()
    direction_N, _ = model.parts(given, noise(4, D, seed=1))
    assert direction_N.tolist() == pytest.approx([vmf.log_area(D)] * 4)
    direction_N.sum().backward()
    assert model.linear.bias.grad is not None
    assert model.linear.bias.grad.isfinite().all()


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="no directions"):
        DirectionMagnitude(W, 1)
    with pytest.raises(ValueError, match="0 of 40 latent steps move"):
        measured(Steps(noise(40, W, D), torch.zeros(40, D)))


# --- hard inputs --------------------------------------------------------------------------------------------------


def hard_steps(rng: np.random.Generator, count: int, window: int, dimension: int) -> Steps:
    """Trajectories with one to four things wrong with them."""
    frames = rng.standard_normal((count, window + 1, dimension)).cumsum(1 if rng.random() < 0.7 else 0)
    faults = rng.choice(8, rng.integers(1, 5), replace=False)
    if 0 in faults:  # dimensions that never change
        frames[..., : dimension // 2] = 1.0
    if 1 in faults:  # steps of no length
        frames[:: int(rng.integers(2, 5)), -1] = frames[:: int(rng.integers(2, 5)), -2][:1]
        frames[::2, -1] = frames[::2, -2]
    if 2 in faults:  # outliers
        frames[rng.integers(0, count, 3)] *= 1e4
    if 3 in faults:  # all dimensions alike
        frames[...] = frames[..., :1]
    if 4 in faults:  # the step says exactly what the context said
        frames[:, -1] = 2 * frames[:, -2]
    if 5 in faults:  # one step for all
        frames[:, -1] = frames[:, -2] + rng.standard_normal(dimension)
    if 6 in faults:  # far from the origin
        frames += 1e3
    if 7 in faults:  # steps of very different lengths
        frames[:, -1] = frames[:, -2] + (frames[:, -1] - frames[:, -2]) * 10 ** rng.uniform(-6, 6, (count, 1))
    frames = torch.from_numpy((frames * 10 ** rng.uniform(-8, 8)).astype(np.float32))
    return Steps(frames[:, :-1], frames[:, -1] - frames[:, -2])


def survives(seed: int) -> None:
    """Measure, train a few reckless steps, predict, roll out: everything must stay finite."""
    rng = np.random.default_rng(seed)
    window, dimension = int(rng.integers(1, 9)), int(rng.integers(2, 65))
    steps = hard_steps(rng, int(rng.integers(8, 200)), window, dimension)
    torch.manual_seed(seed)
    sizes = {"hidden": int(rng.integers(4, 64)), "layers": int(rng.integers(1, 4))}
    for kind in (DirectionMagnitude, MixtureDensity):
        model = kind(window, dimension, **sizes)
        if kind is DirectionMagnitude and int((steps.delta_ND.double().norm(dim=-1) > 0).sum()) < 2:
            with pytest.raises(ValueError, match="move"):
                model.measure(batches(steps))
            continue
        model.measure(batches(steps))
        optimizer = torch.optim.AdamW(model.parameters(), lr=float(10 ** rng.uniform(-4, -1)))
        for _ in range(5):
            optimizer.zero_grad()
            nll = model.nll(model(steps.context_NWD), steps.delta_ND)  # type: ignore[arg-type]
            assert nll.isfinite().all(), (seed, kind)
            (nll.mean() / dimension).backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            assert norm.isfinite(), (seed, kind)
            optimizer.step()
        with torch.no_grad():
            context = steps.context_NWD
            for _ in range(16):
                given = model(context)
                assert all(x.isfinite().all() for x in given), (seed, kind)
                assert model.nll(given, steps.delta_ND).isfinite().all(), (seed, kind)  # type: ignore[arg-type]
                context = torch.cat((context[:, 1:], (context[:, -1] + model.step(given))[:, None]), 1)  # type: ignore[arg-type]
                assert context.isfinite().all(), (seed, kind)
        assert model.baseline_nll(steps.delta_ND).isfinite().all()


def test_hard_inputs_leave_everything_finite():
    for seed in range(12):
        survives(seed)


@pytest.mark.slow
def test_two_hundred_hard_inputs_leave_everything_finite():
    for seed in range(200):
        survives(seed)
