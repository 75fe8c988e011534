"""Diffusion and flow matching against Gaussian latents, where the best net, its loss and its samples are formulas.

For x ~ N(mu, s^2) and alpha x + sigma noise, everything is linear. A DDIM step from t to s multiplies the distance from
the mean by sqrt(var_s / var_t) cos(theta_s - theta_t), where theta = atan2(sigma, alpha s): samples have the right
mean, and lack of their width what polygons lack of a circle's arc. An Euler step multiplies it by 1 - h a(level).
"""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from inscape.nn.diffusion import Diffusion, FlowMatching, NoiseProcess, Schedule, noise_process, prior_loss
from inscape.nn.unet import LatentNormaliser, UNet, UNetConfig

FREE = float("inf")
COSINE = Diffusion(limit=FREE)
AS_NOISE = Diffusion(output="noise", limit=FREE)
LINEAR = Diffusion(Schedule("linear"), limit=FREE)
PROCESSES: dict[str, NoiseProcess] = {"cosine": COSINE, "noise": AS_NOISE, "linear": LINEAR, "flow": FlowMatching()}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def amplitudes(process: NoiseProcess, time_B: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at times as the net is told them."""
    if isinstance(process, FlowMatching):
        return 1 - time_B.double(), time_B.double()
    alpha_bar_B = process.schedule.alpha_bar()[(time_B * process.schedule.steps).round().long()]
    return alpha_bar_B.sqrt(), (1 - alpha_bar_B).sqrt()


class BestNet:
    """What no net can beat where standardised latents are N(mu, s^2) in every pixel; its normaliser need not fit."""

    def __init__(self, process: NoiseProcess, mu: float, s: float, channels: int = 1) -> None:
        self.process, self.mu, self.s = process, mu, s
        self.normaliser = LatentNormaliser(channels)

    def parts(self, noised_BCHW: Tensor, time_B: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior means of the clean latent and of the noise."""
        alpha, sigma = (a.view(-1, 1, 1, 1) for a in amplitudes(self.process, time_B))
        distance = (noised_BCHW.double() - alpha * self.mu) / (alpha**2 * self.s**2 + sigma**2)
        return self.mu + alpha * self.s**2 * distance, sigma * distance

    def __call__(self, noised_BCHW: Tensor, time_B: Tensor, /) -> Tensor:
        clean, noise = self.parts(noised_BCHW, time_B)
        if isinstance(self.process, FlowMatching):
            return (noise - clean).float()
        if self.process.output == "noise":
            return noise.float()
        alpha, sigma = (a.view(-1, 1, 1, 1) for a in amplitudes(self.process, time_B))
        return (alpha * noise - sigma * clean).float()


def width_of_samples(process: NoiseProcess, s: float, steps: int) -> tuple[float, float]:
    """What sampling multiplies the first noise by, and the alpha that it starts from."""
    if isinstance(process, FlowMatching):
        level = torch.arange(steps, 0, -1).double() / steps
        slope = (level - (1 - level) * s**2) / ((1 - level) ** 2 * s**2 + level**2)
        return float((1 - slope / steps).prod()), 0.0
    total = process.schedule.steps
    alpha, sigma = amplitudes(process, torch.tensor([round(total * i / steps) / total for i in range(steps, -1, -1)]))
    angle, variance = torch.atan2(sigma, alpha * s), alpha**2 * s**2 + sigma**2
    return float(angle.diff().cos().prod() * (variance[-1] / variance[0]).sqrt()), float(alpha[0])


# --- schedules ----------------------------------------------------------------------------------------------------


def test_the_ends_of_the_schedules_are_the_papers():
    cosine, linear = Schedule("cosine").alpha_bar(), Schedule("linear").alpha_bar()
    assert cosine[0] == linear[0] == 1
    assert len(cosine) == len(linear) == 1001
    assert linear[1] == 1 - 1e-4
    assert float(linear[-1]) == pytest.approx(
        math.exp(sum(math.log1p(-(1e-4 + i * 0.0199 / 999)) for i in range(1000)))
    )
    assert float(cosine[500]) == pytest.approx(
        (math.cos(0.508 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    )
    assert float(cosine[-1] / cosine[-2]) == pytest.approx(1e-3), "the last beta is bounded"


@given(shape=st.sampled_from(["cosine", "linear"]), steps=st.integers(1, 2000))
def test_schedules_fall_from_one_and_stay_above_zero(shape: str, steps: int):
    alpha_bar = Schedule(shape, steps).alpha_bar()
    assert alpha_bar[0] == 1
    assert (alpha_bar.diff() < 0).all()
    assert alpha_bar[-1] > 0
    assert steps < 20 or alpha_bar[-1] < 1e-4


@given(level=st.floats(0.001, 0.999), shape=st.sampled_from(["cosine", "linear"]), steps=st.integers(1, 1000))
def test_the_nearest_step_is_that_of_a_search(level: float, shape: str, steps: int):
    schedule = Schedule(shape, steps)
    alpha_bar = schedule.alpha_bar()[1:]
    share = (1 - alpha_bar).sqrt() / (alpha_bar.sqrt() + (1 - alpha_bar).sqrt())
    found = schedule.nearest(torch.tensor([level], dtype=torch.float64))
    assert float((share[found - 1] - level).abs()) == pytest.approx(float((share - level).abs().min()), abs=1e-12)


@given(gamma=st.floats(0.1, 100), t=st.integers(1, 1000), shape=st.sampled_from(["cosine", "linear"]))
def test_weights_are_min_snr_over_snr(gamma: float, t: int, shape: str):
    process = Diffusion(Schedule(shape), gamma=gamma)
    alpha_bar = float(process.schedule.alpha_bar()[t])
    snr = alpha_bar / (1 - alpha_bar)
    assert float(process.schedule.signal_to_noise(torch.tensor([t]))) == pytest.approx(snr)
    assert float(process.weight(torch.tensor([t]))) == pytest.approx(min(snr, gamma) / snr)


# --- the formulas of Gaussian latents -----------------------------------------------------------------------------


@each_process
@given(mu=st.floats(-2, 2), s=st.floats(0.2, 3), steps=st.integers(1, 40), seed=st.integers(0, 99))
def test_sampling_is_the_linear_map_of_theory(process: NoiseProcess, mu: float, s: float, steps: int, seed: int):
    net = BestNet(process, mu, s)
    net.normaliser.mean_C.fill_(-3.0)
    net.normaliser.std_C.fill_(2.0)
    width, alpha = width_of_samples(process, s, steps)
    first = torch.randn(2, 1, 4, 4, generator=seeded(seed))
    found = process.sample(net, (2, 1, 4, 4), steps, seeded(seed))
    torch.testing.assert_close(found, -3 + 2 * (mu + width * (first - alpha * mu)), atol=5e-3, rtol=1e-3)


@each_process
def test_samples_have_the_mean_and_variance_of_the_latents(process: NoiseProcess):
    mu, s, steps = 0.7, 0.4, 500
    found = process.sample(BestNet(process, mu, s), (4, 1, 32, 32), steps, seeded()).double()
    width, alpha = width_of_samples(process, s, steps)
    assert abs(width / s - 1) < (0.01 if isinstance(process, Diffusion) else 0.03)
    standard_error = s / found.numel() ** 0.5
    assert abs(float(found.mean()) - mu) < 5 * standard_error + width * alpha * mu
    assert abs(float(found.var()) / s**2 - 1) < 5 * (2 / found.numel()) ** 0.5 + abs((width / s) ** 2 - 1)


@each_process
@pytest.mark.parametrize("level", [0.02, 0.3, 0.9])
def test_one_step_gives_the_posterior_mean(process: NoiseProcess, level: float):
    mu, s = -0.4, 1.7
    net = BestNet(process, mu, s)
    latent_BCHW = mu + s * torch.randn(3, 1, 8, 8, generator=seeded(1))
    noise_BCHW = torch.randn(3, 1, 8, 8, generator=seeded(2))
    alpha, sigma = 1 - level, level
    if isinstance(process, Diffusion):
        t_B = process.schedule.nearest(torch.tensor([level]))
        alpha, sigma = (float(a) for a in amplitudes(process, t_B / process.schedule.steps))
        assert sigma / (alpha + sigma) == pytest.approx(level, abs=0.006)
    seen = alpha * latent_BCHW + sigma * noise_BCHW
    expected = (mu / s**2 + alpha * seen / sigma**2) / (1 / s**2 + alpha**2 / sigma**2)
    found = process.denoise(net, latent_BCHW, level, seeded(2))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gamma", [FREE, 5.0])
@pytest.mark.parametrize("output", ["velocity", "noise"])
def test_the_loss_of_the_best_net_is_what_cannot_be_known_of_the_noise(gamma: float, output: str):
    s, process = 0.8, Diffusion(output=output, gamma=gamma)
    alpha_bar = process.schedule.alpha_bar()[1:]
    snr = alpha_bar / (1 - alpha_bar)
    unknown = alpha_bar * s**2 / (alpha_bar * s**2 + 1 - alpha_bar)
    expect_loss(process, BestNet(process, 0.3, s), float(((gamma / snr).clamp(max=1) * unknown).mean()))


def test_the_loss_of_the_best_flow_is_half_pi_s():
    process, s = FlowMatching(), 0.8
    expect_loss(process, BestNet(process, 0.3, s), math.pi / 2 * s)


def expect_loss(process: NoiseProcess, net: BestNet, expected: float) -> None:
    """Within five standard errors, which are small; and any other net is worse."""
    generator = seeded()
    latents = net.mu + net.s * torch.randn(100, 64, 1, 4, 4, generator=generator)
    losses = torch.stack([process.loss(net, latent_BCHW, generator) for latent_BCHW in latents])
    standard_error = float(losses.std()) / len(losses) ** 0.5
    assert standard_error < 0.02 * expected
    assert abs(float(losses.mean()) - expected) < 5 * standard_error
    best = float(process.loss(net, latents.flatten(0, 1), seeded(1)))
    for factor, shift in ((0.7, 0.0), (1.3, 0.0), (1.0, 0.1)):
        worse: Any = lambda x, t, f=factor, d=shift: f * net(x, t) + d  # noqa: E731
        worse.normaliser = net.normaliser
        assert float(process.loss(worse, latents.flatten(0, 1), seeded(1))) > best


def test_a_fresh_velocity_net_is_exact_for_unit_gaussians():
    net = UNet(UNetConfig(channels=2, width=4, multipliers=(1, 2), heads=1, groups=2))
    x_BCHW, t_B = torch.randn(2, 2, 4, 4), torch.tensor([3, 700])
    best = BestNet(COSINE, 0.0, 1.0, channels=2)
    torch.testing.assert_close(COSINE.predicted(net, x_BCHW, t_B), COSINE.predicted(best, x_BCHW, t_B))


@pytest.mark.parametrize("output", ["velocity", "noise"])
def test_the_parts_of_a_prediction_make_the_noised_latent_even_if_one_is_clamped(output: str):
    process = Diffusion(output=output, limit=0.5)
    net = UNet(UNetConfig(channels=2, width=4, multipliers=(1, 2), heads=1, groups=2))
    x_BCHW, t_B = 2 * torch.randn(3, 2, 4, 4), torch.tensor([1, 500, 1000])
    clean_BCHW, noise_BCHW = process.predicted(net, x_BCHW, t_B)
    assert clean_BCHW.abs().max() == 0.5
    torch.testing.assert_close(process.noised(clean_BCHW, t_B, noise_BCHW), x_BCHW)


# --- what holds for any net ---------------------------------------------------------------------------------------


def drawn_net() -> UNet:
    """A net that does something: nothing of it is left at zero."""
    net = UNet(UNetConfig(channels=2, width=8, multipliers=(1, 2), heads=2, groups=4))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    return net


@each_process
def test_the_prior_pulls_the_latent_to_the_target_and_nothing_else(process: NoiseProcess):
    net = drawn_net()
    net.normaliser.std_C.fill_(3.0)
    latent_BCHW = torch.randn(2, 2, 8, 8, generator=seeded(), requires_grad=True)
    target_BCHW = process.denoise(net, latent_BCHW, 0.4, seeded(1))
    loss = prior_loss(process, net, latent_BCHW, 0.4, seeded(1))
    loss.backward()
    gap_BCHW = latent_BCHW.detach() - target_BCHW
    torch.testing.assert_close(loss.detach(), gap_BCHW.square().mean())
    assert latent_BCHW.grad is not None
    assert torch.equal(latent_BCHW.grad, 2 * gap_BCHW / 256)  # a power of two: bit for bit
    assert latent_BCHW.grad.abs().min() > 0
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not target_BCHW.requires_grad


@each_process
def test_draws_are_of_the_generator_alone(process: NoiseProcess):
    net, latent_BCHW, state = drawn_net(), torch.randn(4, 2, 8, 8), torch.random.get_rng_state()

    def all_of_it(seed: int) -> list[Tensor]:
        generator = seeded(seed)
        return [
            process.loss(net, latent_BCHW, generator).detach(),
            process.denoise(net, latent_BCHW, 0.5, generator),
            process.sample(net, (2, 2, 4, 4), 3, generator),
        ]

    assert all(torch.equal(a, b) for a, b in zip(all_of_it(0), all_of_it(0), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(all_of_it(0), all_of_it(1), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


@each_process
def test_a_step_of_a_batch_is_that_of_each_sample(process: NoiseProcess):
    net, x_BCHW = drawn_net(), torch.randn(4, 2, 8, 8, generator=seeded())
    start_B = (
        torch.tensor([0.9, 0.5, 0.3, 0.6]) if isinstance(process, FlowMatching) else torch.tensor([990, 500, 9, 2])
    )
    end_B = start_B // 2 if isinstance(process, Diffusion) else start_B / 2
    with torch.no_grad():
        together = process.step(net, x_BCHW, start_B, end_B)  # pyright: ignore[reportArgumentType]
        for i in range(4):
            one = slice(i, i + 1)
            alone = process.step(net, x_BCHW[one], start_B[one], end_B[one])
            torch.testing.assert_close(alone, together[one], atol=1e-4, rtol=1e-4)


@each_process
def test_a_level_for_each_sample_is_that_level_for_all(process: NoiseProcess):
    net, latent_BCHW = drawn_net(), torch.randn(3, 2, 8, 8)
    mixed = process.denoise(net, latent_BCHW, torch.tensor([0.1, 0.5, 0.9]), seeded())
    for i, level in enumerate((0.1, 0.5, 0.9)):
        torch.testing.assert_close(
            mixed[i], process.denoise(net, latent_BCHW, level, seeded())[i], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("process", [Diffusion(), FlowMatching()])
def test_a_net_learns_the_two_pictures_it_is_shown(process: NoiseProcess):
    torch.manual_seed(0)
    generator = seeded()
    picture_CHW = torch.ones(1, 8, 8)
    picture_CHW[:, :, 4:] = -1

    def shown(count: int) -> Tensor:
        sign_B = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
        return 5 + sign_B[:, None, None, None] * picture_CHW + 0.1 * torch.randn(count, 1, 8, 8, generator=generator)

    net = UNet(UNetConfig(channels=1, width=8, multipliers=(1, 2), heads=2, groups=4))
    net.normaliser.measure(shown(256))
    fresh, optimizer = copy.deepcopy(net), torch.optim.AdamW(net.parameters(), lr=4e-3)
    steps = 120
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        process.loss(net, shown(32), generator).backward()
        optimizer.step()
    held_out = shown(512)
    with torch.no_grad():
        before, after = (float(process.loss(n, held_out, seeded(1))) for n in (fresh, net))
    assert after < 0.3 * before
    likeness_B = ((process.sample(net, (64, 1, 8, 8), 20, seeded(2)) - 5) * picture_CHW).mean((1, 2, 3))
    assert (likeness_B.abs() - 1).abs().median() < 0.15
    assert 16 < int((likeness_B > 0).sum()) < 48, "both pictures, and not one of them alone"


def test_half_precision_changes_little():
    net, latent_BCHW = drawn_net(), torch.randn(8, 2, 8, 8, generator=seeded())
    exact = COSINE.loss(net, latent_BCHW, seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        rough = COSINE.loss(net, latent_BCHW, seeded(1))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.0, rtol=0.05)
    rough.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_phase_picks_by_a_word():
    assert noise_process("cosine") == Diffusion()
    assert noise_process("linear") == Diffusion(Schedule("linear"))
    assert noise_process("flow") == FlowMatching()
    with pytest.raises(ValueError, match=r"'sine' is not known; allowed: cosine \| linear \| flow"):
        noise_process("sine")


@each_process
def test_what_is_out_of_range_is_refused(process: NoiseProcess):
    net = drawn_net()
    for level in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"level=.* is out of range; allowed: above 0 and below 1"):
            process.denoise(net, torch.zeros(1, 2, 8, 8), level, seeded())
    with pytest.raises(ValueError, match="steps=0 is out of range"):
        process.sample(net, (1, 2, 8, 8), 0, seeded())
    with pytest.raises(ValueError, match=r"wanted \(B, C, H, W\), each 1 or more"):
        process.sample(net, (2, 8, 8), 4, seeded())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule("sine"), r"schedule.shape='sine' is not known"),
        (lambda: Schedule(steps=0), r"schedule.steps=0 is out of range; allowed: 1 to 100000"),
        (lambda: Diffusion(output="x"), r"diffusion.output='x' is not known; allowed: velocity \| noise"),
        (lambda: Diffusion(gamma=0), r"diffusion.gamma=0 is out of range; allowed: above 0"),
        (lambda: Diffusion(limit=float("nan")), r"diffusion.limit=nan is out of range"),
        (
            lambda: Diffusion(Schedule(steps=9)).sample(drawn_net(), (1, 2, 8, 8), 10, None),
            "allowed: 1 to the schedule's 9",
        ),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()
