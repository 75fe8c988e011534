"""Pictures of meaning: written, small, the same every time, true to their numbers, and drawn for what collapsed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inscape.data.scenes import parse, split_of
from inscape.studies.visual import figures, meaning_figures
from inscape.studies.visual.meaning_drawing import SCENES, scenes_with_edits
from inscape.studies.visual.meaning_figures import CAPTIONS

EDITS, FACTS = ("colour", "shape", "relation", "binding", "across"), (1, 2, 3)
SIGMA_S = np.array([0.0, 0.25, 0.5, 1.0])
WORDS = ["a", "red", "ball", "is", "on", "the", "blue", "block", "</s>"]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def with_interval(value: np.ndarray) -> np.ndarray:
    return np.stack((value, value - 0.04, value + 0.04), -1)


def embeddings() -> tuple[np.ndarray, list[int]]:
    labels = rng().integers(1, 4, 120)
    return rng().standard_normal((4, 16))[labels] + 0.3 * rng().standard_normal((120, 16)), labels.tolist()


def draw(name: str, path: Path, fill: float | None = None) -> None:
    """Draw the picture `name` of plausible numbers, or of nothing but `fill`."""

    def given(array: np.ndarray) -> np.ndarray:
        return array if fill is None else np.full_like(array, fill, dtype=np.float64)

    z_BZ, labels = embeddings()
    curve_S3 = with_interval(0.9 - 0.3 * SIGMA_S)
    draws: dict[str, Callable[[], None]] = {
        "embedding_map.png": lambda: meaning_figures.embedding_map(
            given(z_BZ), labels, path, label_name="number of facts", method="pca"
        ),
        "edit_bars.png": lambda: meaning_figures.edit_bars(
            EDITS, FACTS, given(with_interval(0.7 + 0.2 * rng().random((5, 3)))), path, chance=0.5
        ),
        "jitter_curve.png": lambda: meaning_figures.jitter_curve(
            np.arange(4), given(curve_S3), ["blur 0.8 px", "cutout"], given(curve_S3[:2]), path, different=0.1
        ),
        "noise_curve.png": lambda: meaning_figures.noise_curve(
            SIGMA_S, given(np.stack([curve_S3, curve_S3 - 0.1, curve_S3 - 0.3])), FACTS, path
        ),
        "attention_over_latent.png": lambda: meaning_figures.attention_over_latent(
            given(rng().standard_normal((6, 32, 32))),
            WORDS,
            given(rng().dirichlet([0.3] * 64, 9)).reshape(9, 8, 8),
            path,
        ),
    }
    draws[name]()


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)[..., :3]


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_picture_is_small_uncut_and_always_the_same(name: str, tmp_path: Path) -> None:
    draw(name, tmp_path / name)
    draw(name, tmp_path / "again.png")
    assert (tmp_path / name).read_bytes() == (tmp_path / "again.png").read_bytes()
    assert (tmp_path / name).stat().st_size < 150_000
    shown = pixels(tmp_path / name)
    assert shown.shape[1] >= 400
    assert all(np.allclose(edge, 1, atol=0.02) for edge in (shown[0], shown[-1], shown[:, 0], shown[:, -1]))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 20
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_map_with_crosses_is_drawn_and_what_collapsed_too(tmp_path: Path) -> None:
    z_BZ, labels = embeddings()
    edited_B = np.arange(len(z_BZ)) % 2 == 0
    for name, given in (("dots", None), ("crosses", edited_B)):
        meaning_figures.embedding_map(z_BZ, labels, tmp_path / name, label_name="scenes", method="pca", edited_B=given)
    assert (tmp_path / "dots").read_bytes() != (tmp_path / "crosses").read_bytes()
    flat = np.ones_like(z_BZ)
    meaning_figures.embedding_map(flat, labels, tmp_path / "flat", label_name="scenes", edited_B=edited_B)
    assert (tmp_path / "flat").stat().st_size > 1000


@pytest.mark.parametrize("name", CAPTIONS)
@pytest.mark.parametrize("value", [3.0, np.nan, np.inf])
def test_what_collapsed_is_drawn_without_a_warning(name: str, value: float, tmp_path: Path) -> None:
    draw(name, tmp_path / name, value)
    assert (tmp_path / name).stat().st_size > 1000


def test_no_file_name_is_taken_by_the_pictures_of_latents() -> None:
    assert not CAPTIONS.keys() & figures.CAPTIONS.keys()


# --- the embedding ------------------------------------------------------------------------------------------------


def test_principal_components_are_numpys_and_their_signs_are_fixed() -> None:
    z_BZ, _ = embeddings()
    place_B2, title = meaning_figures._principal_components(z_BZ)
    value_Z, vector_ZZ = np.linalg.eigh(np.cov(z_BZ.T))
    expected = (z_BZ - z_BZ.mean(0)) @ vector_ZZ[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(place_B2), np.abs(expected), atol=1e-9)
    assert title == f"PCA, {100 * value_Z[-2:].sum() / value_Z.sum():.0f} % of the variance"
    turned, _ = meaning_figures._principal_components(np.ascontiguousarray(z_BZ[::-1]))
    np.testing.assert_allclose(turned[::-1], place_B2, atol=1e-9)


def test_one_dimension_is_laid_out_on_a_line() -> None:
    place_B2, _ = meaning_figures._principal_components(np.arange(5.0)[:, None])
    np.testing.assert_allclose(place_B2, np.stack((np.arange(5.0) - 2, np.zeros(5)), 1), atol=1e-12)


@pytest.mark.parametrize(
    ("installed", "method", "used"),
    [
        (("umap", "sklearn"), "auto", "UMAP"),
        (("sklearn",), "auto", "t-SNE, perplexity 30"),
        ((), "auto", "PCA"),
        (("umap", "sklearn"), "t-sne", "t-SNE, perplexity 30"),
        (("umap", "sklearn"), "pca", "PCA"),
    ],
)
def test_the_title_says_which_layout_was_used(
    installed: tuple[str, ...], method: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, titles = [], []

    class Layout:
        def __init__(self, **options: Any) -> None:
            seeds.append(options["random_state"])

        def fit_transform(self, z_BZ: np.ndarray) -> np.ndarray:
            return z_BZ[:, :2]

    def import_module(name: str) -> SimpleNamespace:
        if name.split(".")[0] not in (*installed, "numpy"):
            raise ImportError(name)
        return SimpleNamespace(UMAP=Layout, TSNE=Layout)

    monkeypatch.setattr(meaning_figures, "import_module", import_module)
    plane = meaning_figures._plane
    monkeypatch.setattr(meaning_figures, "_plane", lambda *given: titles.append((out := plane(*given))[1]) or out)
    z_BZ, labels = embeddings()
    meaning_figures.embedding_map(z_BZ, labels, tmp_path / "e.png", label_name="facts", method=method, seed=7)
    assert titles[0].startswith(used)
    assert seeds == ([] if used == "PCA" else [7])
    meaning_figures.embedding_map(z_BZ[:19], labels[:19], tmp_path / "e.png", label_name="facts", method=method)
    assert titles[1].startswith("PCA"), "too few for neighbourhoods"


def test_a_layout_that_is_installed_works_and_is_the_same_twice(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    z_BZ, labels = embeddings()
    for name in ("one.png", "two.png"):
        meaning_figures.embedding_map(z_BZ, labels, tmp_path / name, label_name="facts", method="t-sne")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_wrong_layout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    z_BZ, labels = embeddings()
    with pytest.raises(ValueError, match="method is 'mds'; allowed: auto, umap, t-sne, pca"):
        meaning_figures.embedding_map(z_BZ, labels, tmp_path / "e.png", label_name="facts", method="mds")
    monkeypatch.setitem(meaning_figures.PACKAGES, "t-sne", "no_such_package.manifold")
    with pytest.raises(ValueError, match="'t-sne' needs the package no_such_package"):
        meaning_figures.embedding_map(z_BZ, labels, tmp_path / "e.png", label_name="facts", method="t-sne")
    with pytest.raises(ValueError, match="120 embeddings but 3 labels"):
        meaning_figures.embedding_map(z_BZ, labels[:3], tmp_path / "e.png", label_name="facts")


def test_colours_by_name_are_painted_and_many_labels_differ(tmp_path: Path) -> None:
    z_BZ, _ = embeddings()
    for name, labels in (("named", ["red", "white", "blue"] * 40), ("many", [f"r{i % 12}" for i in range(120)])):
        meaning_figures.embedding_map(z_BZ, labels, tmp_path / f"{name}.png", label_name="first", method="pca")
    colours = pixels(tmp_path / "named.png").reshape(-1, 3)
    red, blue = (np.abs(colours - np.array(c)).max(1).min() for c in ((1, 0.2, 0.2), (0.2, 0.2, 1)))
    assert max(red, blue) < 0.02  # painted at 80 % over white


def test_edited_scenes_are_crosses_in_the_colour_of_their_scene() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    place_B2, scene_B = np.arange(80.0).reshape(40, 2), np.arange(40) % 20
    edited_B = np.arange(40) >= 20
    meaning_figures._cross(axes, place_B2, scene_B.tolist(), edited_B)
    dots, crosses = axes.collections
    assert axes.get_legend_handles_labels()[1] == ["a wording of the scene", "the scene after one edit"]
    np.testing.assert_array_equal(dots.get_offsets(), place_B2[~edited_B])
    np.testing.assert_array_equal(crosses.get_offsets(), place_B2[edited_B])
    colour_N3, same_N3 = (np.array(colours)[:, :3] for colours in (dots.get_facecolor(), crosses.get_edgecolor()))
    assert len(np.unique(colour_N3, axis=0)) == 20
    np.testing.assert_array_equal(colour_N3, same_N3)


def test_the_map_shows_held_out_scenes_in_seven_wordings_and_after_each_edit() -> None:
    points = scenes_with_edits((1, 2))
    assert points == scenes_with_edits((1, 2))
    assert {point.scene for point in points} == set(range(SCENES))
    numbers = []
    for number in range(SCENES):
        own = [parse(point.sentence) for point in points if point.scene == number and not point.edited]
        others = [parse(point.sentence) for point in points if point.scene == number and point.edited]
        assert len({p.sentence for p in points if p.scene == number and not p.edited}) == len(own) == 7
        assert len(set(own)) == 1
        assert own[0] not in others
        assert split_of(own[0]) == "heldout"
        assert 5 <= len(others) <= 8, "an edit each; swaps and sizes do not always apply"
        numbers.append(len(own[0].facts))
    assert numbers == [1, 2] * (SCENES // 2)


def test_labels_are_ordered_as_numbers_are() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    labels = ["10 or more", "5 or more", "0 or more", "5 or more"]
    meaning_figures._scatter(axes, np.zeros((4, 2)), labels)
    assert axes.get_legend_handles_labels()[1] == ["0 or more", "5 or more", "10 or more"]
    meaning_figures._scatter(axes, np.zeros((4, 2)), [10, 2, 1, 2])
    assert axes.get_legend_handles_labels()[1][3:] == ["1", "2", "10"]


# --- bars and curves ----------------------------------------------------------------------------------------------


def test_bars_are_as_high_as_their_numbers_and_what_does_not_exist_has_none(tmp_path: Path) -> None:
    def blue_pixels(value: float) -> int:
        accuracy = np.full((1, 1, 3), value)
        meaning_figures.edit_bars(["colour"], [1], accuracy, tmp_path / "b.png")
        shown = pixels(tmp_path / "b.png")[40:]  # without the legend
        return int((np.abs(shown - np.array([0, 0.447, 0.698])).max(2) < 0.03).sum())

    assert blue_pixels(0.4) == pytest.approx(blue_pixels(0.8) / 2, rel=0.03)
    assert blue_pixels(np.nan) == 0


def test_no_interval_is_no_whisker() -> None:
    nan = np.nan
    found = meaning_figures._whiskers(np.array([[0.5, 0.4, 0.7], [0.5, nan, nan], [nan, nan, nan], [0.5, 0.5, 0.5]]))
    np.testing.assert_allclose(found, [[0.1, 0, 0, 0], [0.2, 0, 0, 0]])


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match=r"accuracy has the shape \(5, 3\); wanted \(5, 3, 3\)"):
        meaning_figures.edit_bars(EDITS, FACTS, np.ones((5, 3)), path)
    with pytest.raises(ValueError, match="cosine of others"):
        meaning_figures.jitter_curve(np.arange(4), np.ones((4, 3)), ["blur"], np.ones((2, 3)), path)
    with pytest.raises(ValueError, match="share has the shape"):
        meaning_figures.noise_curve(SIGMA_S, np.ones((2, 4, 3)), FACTS, path)
    assert not path.exists()


def test_a_negative_cosine_stays_in_sight(tmp_path: Path) -> None:
    shown = []
    for low in (0.0, -0.8):
        meaning_figures.jitter_curve(
            np.arange(2), np.array([[1.0, 1, 1], [low, low, low]]), [], np.ones((0, 3)), tmp_path / "j.png"
        )
        shown.append(pixels(tmp_path / "j.png"))
    assert not np.array_equal(*shown)


# --- attention ----------------------------------------------------------------------------------------------------


def orange(latent: np.ndarray, map_THW: np.ndarray, path: Path) -> np.ndarray:
    """Where the first word's tile is orange, on the latent's grid of 32 x 32 pixels, three of the picture for each."""
    meaning_figures.attention_over_latent(latent, ["word"] * len(map_THW), map_THW, path)
    tile = pixels(path)[10 : 10 + 96, 10 + 106 : 10 + 106 + 96][1::3, 1::3]
    return tile[..., 0] - tile[..., 2] > 0.3


@pytest.mark.parametrize("grid", [(4, 4), (16, 16), (5, 7)])
def test_attention_lies_over_its_own_place(grid: tuple[int, int], tmp_path: Path) -> None:
    latent, map_HW = rng().standard_normal((6, 32, 32)), np.zeros(grid)
    map_HW[1, 3] = 0.2
    found = orange(latent, map_HW[None], tmp_path / "a.png")
    expected = np.zeros((32, 32), dtype=bool)
    top, bottom, left, right = (x * 32 / n for x, n in ((1, grid[0]), (2, grid[0]), (3, grid[1]), (4, grid[1])))
    expected[round(top) : round(bottom), round(left) : round(right)] = True
    assert (found != expected).sum() <= (0 if grid[0] != 5 else 20)
    assert found[round((top + bottom) / 2), round((left + right) / 2)]


def test_a_map_that_is_alike_everywhere_is_not_drawn_as_a_place(tmp_path: Path) -> None:
    latent = rng().standard_normal((6, 32, 32))
    uniform = 1 / 64 + 1e-4 * rng().random((1, 8, 8))
    assert orange(latent, uniform, tmp_path / "a.png").all()
    assert not orange(latent, np.zeros((1, 8, 8)), tmp_path / "a.png").any()


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_composite_does_not_depend_on_scale_and_is_grey_where_flat(channels: int) -> None:
    latent = rng().standard_normal((channels, 32, 32))
    shown = meaning_figures._composite(latent)
    assert shown.min() >= 0
    assert shown.max() <= 1
    np.testing.assert_allclose(meaning_figures._composite(1e-4 * latent + 5), shown, atol=1e-6)
    for flat in (np.full_like(latent, 3.3), np.full_like(latent, np.nan)):
        np.testing.assert_array_equal(meaning_figures._composite(flat), 0.5)


def test_words_of_any_script_and_with_dollars(tmp_path: Path) -> None:
    latent, maps = rng().standard_normal((3, 8, 8)), np.ones((4, 4, 4))
    meaning_figures.attention_over_latent(latent, ["$\\frac{$", "赤い", "", "w" * 40], maps, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_every_word_wants_a_map(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="9 words but maps of shape"):
        meaning_figures.attention_over_latent(np.ones((3, 8, 8)), WORDS, np.ones((2, 4, 4)), tmp_path / "a.png")


def test_importing_the_pictures_imports_no_matplotlib_and_no_torch() -> None:
    module = "inscape.studies.visual.meaning_figures"
    code = f"import sys, {module}; print({{'matplotlib', 'torch', 'PIL', 'sklearn', 'umap'}} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
