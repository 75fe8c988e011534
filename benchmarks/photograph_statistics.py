"""Build src/inscape/stats/photographs.npz: statistics of random crops of openly licensed photographs, numbers only.

The pictures come inside the wheels of scikit-image, scikit-learn, matplotlib and PyWavelets, which the package itself
does not need; install them in an environment of your own, then:

    python benchmarks/photograph_statistics.py [OUT.npz]

A crop is a square of the luminance (0.299 R + 0.587 G + 0.114 B) at a random place, its side log-uniform between 32
pixels and the shorter side of the picture, reduced to 32 x 32 by averaging, brought to mean 0 and variance 1. Crops
flatter than 4 of 255 grey levels are drawn again: they show sensor noise and quantisation, not the scene.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from inscape.stats import grid_energy, high_frequency_share, spectral_peakedness, unevenness
from inscape.stats.photographs import BANDS, SIDE, STATISTICS, describe

CROPS_EACH = 300
FLATTEST = 4.0  # grey levels of standard deviation
PHOTOGRAPHS = {  # package and file: licence
    ("skimage", "data/astronaut.png"): "public domain, NASA",
    ("skimage", "data/camera.png"): "CC0, Lav Varshney",
    ("skimage", "data/chelsea.png"): "CC0, Stefan van der Walt",
    ("skimage", "data/coffee.png"): "CC0, Rachel Michetti",
    ("skimage", "data/coins.png"): "no known copyright restrictions, Brooklyn Museum",
    ("skimage", "data/moon.png"): "public domain, NASA",
    ("skimage", "data/motorcycle_left.png"): "CC0, Middlebury stereo data",
    ("skimage", "data/rocket.jpg"): "CC0, SpaceX",
    ("sklearn", "datasets/images/china.jpg"): "CC BY 2.0, danielbuechele",
    ("sklearn", "datasets/images/flower.jpg"): "CC BY 2.0, vultilion",
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"): "public domain, US Navy",
    ("pywt", "data/ascent.npz"): "public domain, public-domain-image.com",
}


def luminance(package: str, name: str) -> Image.Image:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed here; its wheel holds {name}")
    path = Path(spec.origin).parent / name
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return Image.fromarray(archive["data"].astype(np.float32))
    rgb = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)
    return Image.fromarray(rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32))


def crops(picture: Image.Image, rng: np.random.Generator) -> torch.Tensor:
    width, height = picture.size
    kept = []
    while len(kept) < CROPS_EACH:
        side = round(np.exp(rng.uniform(np.log(SIDE), np.log(min(width, height)))))
        left, top = rng.integers(0, width - side + 1), rng.integers(0, height - side + 1)
        box = (left, top, left + side, top + side)
        crop = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX, box=box))
        if crop.std() >= FLATTEST:
            kept.append(crop)
    return torch.from_numpy(np.stack(kept)).double()


def main() -> None:
    default = Path(__file__).parents[1] / "src/inscape/stats/photographs.npz"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    rng = np.random.default_rng(0)
    pictures = [crops(luminance(*where), rng) for where in PHOTOGRAPHS]
    statistics = np.concatenate([describe(picture) for picture in pictures])
    photograph = np.repeat(np.arange(len(PHOTOGRAPHS), dtype=np.uint8), CROPS_EACH)
    np.savez_compressed(out, statistics=statistics.astype(np.float32), photograph=photograph)
    print(f"{out}: {statistics.shape[0]} crops, {out.stat().st_size / 1000:.0f} kB")
    for name, column in zip(STATISTICS, statistics.T, strict=True):
        low, median, high = np.quantile(column, [0.05, 0.5, 0.95])
        band = BANDS[name]
        print(f"{name:18} {median:7.2f} [{low:.2f}, {high:.2f}]   published {band.median} [{band.low}, {band.high}]")
    print_texture(pictures)


def print_texture(pictures: list[torch.Tensor]) -> None:
    """The anchors of `stats.texture`: peakedness over all crops, the others over 64 crops of each picture by itself."""
    low, median, high = np.quantile(spectral_peakedness(torch.cat(pictures)).numpy(), [0.05, 0.5, 0.95])
    print(f"{'peakedness':18} {median:7.2f} [{low:.2f}, {high:.2f}]")
    speckle = np.quantile(high_frequency_share(torch.cat(pictures)).numpy(), 0.95)
    print(f"high-frequency share: 95 % of crops below {speckle:.2f}")
    few = [picture[:64] for picture in pictures]
    for period in (2, 4, 8):
        print(f"grid energy at {period}: at most {max(float(grid_energy(picture, period)) for picture in few):.2f}")
    uneven = [float(unevenness(picture)) for picture in few]
    print(f"unevenness: {min(uneven):.2f} to {max(uneven):.2f}")


if __name__ == "__main__":
    main()
