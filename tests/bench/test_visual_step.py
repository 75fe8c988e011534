"""The benchmark compares like with like: same loss and gradients as the textbook, at toy size."""

from inscape.bench.visual_step import run
from inscape.nn.latent_encoder import LatentEncoderConfig

TOY = LatentEncoderConfig(
    vocab=50, d=32, layers=2, heads=4, ffn=64, head_ffn=48, map_channels=8, H=16, W=16, positions="learned"
)


def test_both_compute_the_same():
    found = run(repeats=1, config=TOY, batch=3, tokens=5, threads=1)
    assert found["loss_difference"] < 1e-4
    assert found["gradient_difference"] < 1e-3
    assert found["ratio"] > 0
