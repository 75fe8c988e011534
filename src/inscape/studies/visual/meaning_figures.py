"""Pictures of what a latent means: its embedding, its edits, what it withstands, and where the decoder looks.

Drawing only, in the manner of `figures`: numbers come in as numpy arrays, no pyplot, the same arrays give the same
bytes, and what collapsed is drawn as collapsed. A last axis of 3 is (value, low, high), as in an `Estimate`; NaN is
what was not measured, and is left out.

Shapes: B sentences, Z of the embedding, E edits, F numbers of facts, S strengths, P other transforms; latents C
channels, H x W; T words.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from inscape.core.rundir import write_atomically
from inscape.studies.visual import figures

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CAPTIONS",
    "METHODS",
    "attention_over_latent",
    "edit_bars",
    "embedding_map",
    "jitter_curve",
    "noise_curve",
]

CAPTIONS = {
    "embedding_map.png": "The embedding of each sentence, laid out in two dimensions; the title says how. Near points "
    "are alike in meaning as the model sees it. Distances between far groups, and their sizes, mean little. Where "
    "there are crosses, dots of one colour are wordings of one scene, which should lie together, and its crosses the "
    "scene after one edit, which should lie apart from them.",
    "edit_bars.png": "How often the model tells a sentence from one that differs by a single edit, for each kind of "
    "edit and number of facts. Whiskers are 95 % intervals over scenes; a dash is an edit that does not exist there.",
    "jitter_curve.png": "How alike the embeddings of a latent and of its jittered copy are. Left: moved by whole "
    "pixels. Right: blurred, or with a square cut out. The dashed line is how alike two different sentences are.",
    "noise_curve.png": "How often the scene read back from a noisy latent is exactly the one that was written, against "
    "the noise in units of the latent's own standard deviation. Whiskers are 95 % intervals over scenes.",
    "attention_over_latent.png": "First the latent, its channels mixed to three colours. Then, for each word that the "
    "decoder writes, the latent in grey and where the decoder looked in orange, each map up to its own peak, whose "
    "share is written below.",
}

# UMAP stands first: it brings scikit-learn along, so whoever has it has asked for it.
PACKAGES = {"umap": "umap", "t-sne": "sklearn.manifold", "pca": "numpy"}
METHODS = ("auto", *PACKAGES)
FEW = 20  # points, below which neighbourhoods are not worth a nonlinear map
NEIGHBOURS = 30  # t-SNE's perplexity
PICTURE, GAP, CAPTION_HEIGHT = 96, 10, 30  # pixels of a grid of latents
NUMBERS = re.compile(r"(\d+)")
ORANGE = (0.835, 0.369, 0.0)  # the second of figures.COLOURS


def embedding_map(
    z_BZ: Float[ndarray, "B Z"],
    labels: Sequence[str] | Sequence[int],
    path: Path,
    *,
    label_name: str,
    edited_B: Bool[ndarray, " B"] | None = None,
    method: str = "auto",
    seed: int = 0,
) -> None:
    """Sentences in the plane, coloured by what `labels` says of each (`label_name`: "number of facts", "relation").

    edited_B: which are a label's scene after an edit: crosses. Labels, up to 20, are then told apart by colour alone.
    `method` is umap, t-sne or pca; auto takes the first that can be imported. Fewer than 20 sentences are always drawn
    by PCA. The title says which was used. ValueError on another method, one that cannot be imported, or missing labels.
    """
    if len(labels) != len(z_BZ):
        raise ValueError(f"{len(z_BZ)} embeddings but {len(labels)} labels: give one for each")
    method = _available(method)
    from matplotlib.figure import Figure

    with figures._style():
        figure = Figure(figsize=(6.4, 4.9), dpi=figures.DPI, layout="constrained")
        axes = figure.subplots()
        axes.set_xticks([])
        axes.set_yticks([])
        z_BZ = figures._finite(z_BZ)
        if not np.isfinite(z_BZ).all() or len(z_BZ) < 3 or np.ptp(z_BZ, axis=0).max(initial=0) < 1e-9:
            figures._say_nothing_to_draw(axes, "nothing to lay out:\nthe embedding is flat or not finite")
        else:
            place_B2, title = _plane(z_BZ, method, seed)
            axes.set_title(f"{title}; {len(z_BZ)} sentences")
            _scatter(axes, place_B2, labels) if edited_B is None else _cross(axes, place_B2, labels, edited_B)
            axes.set_aspect("equal", adjustable="datalim")
            figure.legend(loc="outside right upper", title=label_name, markerscale=1.4, alignment="left")
        _save_in_full_colour(figure, path)


def _available(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    if method == "auto":
        return next(name for name in PACKAGES if _imports(name))
    if not _imports(method):
        raise ValueError(f"method {method!r} needs the package {PACKAGES[method]}, which cannot be imported")
    return method


def _imports(method: str) -> bool:
    """Tried rather than looked up: a package can be there and not go with this numpy, and the picture is still due."""
    try:
        import_module(PACKAGES[method])
    except ImportError:
        return False
    return True


def _plane(z_BZ: ndarray, method: str, seed: int) -> tuple[ndarray, str]:
    if method == "pca" or len(z_BZ) < FEW:
        return _principal_components(z_BZ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they tell of their own threads and versions, not of these numbers
        if method == "umap":
            layout = import_module(PACKAGES[method]).UMAP(metric="cosine", random_state=seed, n_jobs=1)
            return np.asarray(layout.fit_transform(z_BZ), dtype=np.float64), "UMAP"
        perplexity = min(NEIGHBOURS, (len(z_BZ) - 1) // 3)
        layout = import_module(PACKAGES[method]).TSNE(perplexity=perplexity, init="pca", random_state=seed)
        return np.asarray(layout.fit_transform(z_BZ), dtype=np.float64), f"t-SNE, perplexity {perplexity}"


def _principal_components(z_BZ: ndarray, components: int = 2) -> tuple[ndarray, str]:
    """Rows projected on the first principal components, signs fixed so that the largest loading is positive."""
    centred_BZ = z_BZ - z_BZ.mean(0)
    _, level_K, axis_KZ = np.linalg.svd(centred_BZ, full_matrices=False)
    axis_KZ = axis_KZ[:components]
    largest_K1 = np.take_along_axis(axis_KZ, np.abs(axis_KZ).argmax(1)[:, None], axis=1)
    place_BK = centred_BZ @ (axis_KZ * np.sign(largest_K1)).T
    place_BK = np.pad(place_BK, ((0, 0), (0, components - place_BK.shape[1])))
    share = (level_K[:components] ** 2).sum() / max((level_K**2).sum(), 1e-300)
    return place_BK, f"PCA, {100 * share:.0f} % of the variance"


def _scatter(axes: Axes, place_B2: ndarray, labels: Sequence[str] | Sequence[int]) -> None:
    """One colour and marker a label; names of colours are painted as what they say."""
    from matplotlib.colors import CSS4_COLORS

    label_B = np.array([str(label) for label in labels])
    # Numbers inside the words count as numbers: 5 stands before 10.
    names = sorted(
        set(label_B.tolist()), key=lambda name: [int(t) if t.isdecimal() else t for t in NUMBERS.split(name)]
    )
    named = all(name in CSS4_COLORS for name in names)
    for i, name in enumerate(names):
        # Past the eighth label colours return with another marker.
        colour = figures.COLOURS[i % len(figures.COLOURS)]
        marker = figures.MARKERS[(i + i // len(figures.COLOURS)) % len(figures.MARKERS)]
        look = {"c": name, "edgecolors": figures.GREY, "linewidths": 0.25} if named else {"c": colour, "linewidths": 0}
        size = 30 if marker == "*" else 18  # a star has less inside
        axes.scatter(*place_B2[label_B == name].T, s=size, marker=marker, alpha=0.8, label=name, **look)


def _cross(axes: Axes, place_B2: ndarray, labels: Sequence[str] | Sequence[int], edited_B: ndarray) -> None:
    """Dots, and under them crosses, each in the colour of its label."""
    from matplotlib import colormaps

    _, order_B = np.unique(np.array(labels), return_inverse=True)
    colour_B4 = colormaps["tab20"](order_B % 20)
    for rows_B, name, look in (
        (~edited_B, "a wording of the scene", {"marker": "o", "s": 18, "linewidths": 0, "zorder": 3}),
        (edited_B, "the scene after one edit", {"marker": "x", "s": 16, "linewidths": 0.9, "alpha": 0.7}),
    ):
        axes.scatter(*place_B2[rows_B].T, c=colour_B4[rows_B], label=name, **look)


def edit_bars(
    edits: Sequence[str],
    facts: Sequence[int],
    accuracy_EF3: Float[ndarray, "E F 3"],
    path: Path,
    *,
    chance: float | None = None,
) -> None:
    """Accuracy for each edit and number of facts, with its interval; NaN where an edit does not exist."""
    accuracy_EF3 = figures._finite(accuracy_EF3)
    _check_shape("accuracy", accuracy_EF3, (len(edits), len(facts), 3))
    from matplotlib.figure import Figure

    width = 0.8 / len(facts)
    with figures._style():
        figure = Figure(figsize=(max(4.0, 1.2 + 0.95 * len(edits)), 3.3), dpi=figures.DPI, layout="constrained")
        axes = figure.subplots()
        for column, count in enumerate(facts):
            x_E = np.arange(len(edits)) + (column - (len(facts) - 1) / 2) * width
            value_E = accuracy_EF3[:, column, 0]
            axes.bar(x_E, np.nan_to_num(value_E), 0.9 * width, color=figures.COLOURS[column], label=_facts(count))
            axes.errorbar(x_E, value_E, _whiskers(accuracy_EF3[:, column]), fmt="none", ecolor="#222222", lw=1)
            for x in x_E[np.isnan(value_E)]:
                axes.text(x, 0.02, "–", ha="center", color=figures.GREY, fontsize=12)
        if chance is not None:
            axes.axhline(chance, color=figures.GREY, linestyle="--", lw=1, label="chance")
        axes.set_xticks(range(len(edits)), edits)
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 1.03)
        axes.set_ylabel("accuracy")
        axes.set_xlabel("what was edited")
        figures._legend_above(figure, [axes])
        figures._save(figure, path)


def jitter_curve(
    shift_S: Float[ndarray, " S"],
    cosine_S3: Float[ndarray, "S 3"],
    others: Sequence[str],
    cosine_P3: Float[ndarray, "P 3"],
    path: Path,
    *,
    different: float | None = None,
) -> None:
    """Cosine of g(V) with g(T(V)): against the shift in pixels, and for the transforms that `others` names.

    `different` is the mean cosine of two different sentences, without which a high cosine says nothing.
    """
    cosine_S3, cosine_P3 = figures._finite(cosine_S3), figures._finite(cosine_P3)
    _check_shape("cosine of shifts", cosine_S3, (len(shift_S), 3))
    _check_shape("cosine of others", cosine_P3, (len(others), 3))
    from matplotlib.figure import Figure

    with figures._style():
        figure = Figure(figsize=(7.4, 3.2), dpi=figures.DPI, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1))
        _line(left, np.asarray(shift_S, dtype=np.float64), cosine_S3, 0, "a latent and its jittered copy")
        left.set_xlabel("shift (pixels)")
        left.set_xticks(np.unique(np.round(shift_S)))
        left.set_ylabel("cosine of embeddings")
        places_P = np.arange(len(others))
        right.errorbar(
            places_P,
            cosine_P3[:, 0],
            _whiskers(cosine_P3),
            fmt=figures.MARKERS[0],
            ms=5,
            c=figures.COLOURS[0],
            capsize=2,
        )
        right.set_xticks(places_P, [other.replace(" ", "\n", 1) for other in others])
        right.set_xlim(-0.6, max(len(others), 1) - 0.4)
        right.tick_params(axis="x", length=0)
        right.set_xlabel("other transforms")
        if different is not None:
            for axes in (left, right):
                axes.axhline(different, color=figures.GREY, linestyle="--", lw=1, label="two different sentences")
        least = np.nanmin([0.0, np.nanmin(cosine_S3, initial=0), np.nanmin(cosine_P3, initial=0), different or 0])
        left.set_ylim(least - 0.03 if least < 0 else 0, 1.03)
        figures._legend_above(figure, [left])
        figures._save(figure, path)


def noise_curve(
    sigma_S: Float[ndarray, " S"], share_FS3: Float[ndarray, "F S 3"], facts: Sequence[int], path: Path
) -> None:
    """Share of scenes read back exactly, one line for each number of facts.

    `sigma_S` is the noise in fractions of the latent's own standard deviation.
    """
    share_FS3 = figures._finite(share_FS3)
    _check_shape("share", share_FS3, (len(facts), len(sigma_S), 3))
    from matplotlib.figure import Figure

    with figures._style():
        figure = Figure(figsize=(5.2, 3.3), dpi=figures.DPI, layout="constrained")
        axes = figure.subplots()
        for line, count in enumerate(facts):
            _line(axes, np.asarray(sigma_S, dtype=np.float64), share_FS3[line], line, _facts(count))
        axes.set_ylim(-0.02, 1.03)
        axes.set_xlabel("noise (standard deviations of the latent)")
        axes.set_ylabel("scenes read back exactly")
        figures._legend_above(figure, [axes])
        figures._save(figure, path)


def attention_over_latent(
    latent_CHW: Float[ndarray, "C H W"],
    words: Sequence[str],
    map_THW: Float[ndarray, "T h w"],
    path: Path,
    *,
    columns: int = 8,
) -> None:
    """One latent, then for each word it again in grey with the word's attention in orange, on any grid h x w.

    A map is drawn in units of its own peak, so attention that is alike everywhere paints the whole tile. Composed
    pixel for pixel as the montage is. ValueError unless every word has a map.
    """
    maps_THW = np.nan_to_num(figures._finite(map_THW))
    if len(words) != len(maps_THW) or maps_THW.ndim != 3:
        raise ValueError(f"{len(words)} words but maps of shape {maps_THW.shape}: give one (h, w) for each word")
    from matplotlib.figure import Figure

    colour_HW3 = _composite(figures._finite(latent_CHW))
    high, wide = colour_HW3.shape[:2]
    zoom = max(1, round(PICTURE / max(high, wide)))
    colour_HW3 = colour_HW3.repeat(zoom, axis=0).repeat(zoom, axis=1)
    grey_HW1 = 0.45 + 0.5 * (colour_HW3 @ np.array([0.299, 0.587, 0.114]))[..., None]
    tiles = [("the latent", "", colour_HW3)]
    for word, map_HW in zip(words, maps_THW, strict=True):
        peak = map_HW.max(initial=0)
        alpha_HW1 = 0.9 * _stretched(map_HW / (peak or 1), grey_HW1.shape[:2])[..., None]
        below = f"{100 * peak:.2g} %" if peak > 0 else "no map"
        tiles.append((word, below, grey_HW1 * (1 - alpha_HW1) + np.array(ORANGE) * alpha_HW1))
    columns = min(columns, len(tiles))
    step_y, step_x = high * zoom + CAPTION_HEIGHT + GAP, wide * zoom + GAP
    size_y, size_x = -(-len(tiles) // columns) * step_y + GAP, columns * step_x + GAP
    canvas_YX3 = np.ones((size_y, size_x, 3))
    with figures._style():
        figure = Figure(figsize=(size_x / figures.DPI, size_y / figures.DPI), dpi=figures.DPI)
        for i, (word, below, tile_HW3) in enumerate(tiles):
            top, left = GAP + i // columns * step_y, GAP + i % columns * step_x
            canvas_YX3[top : top + high * zoom, left : left + wide * zoom] = tile_HW3
            x, y = (left + wide * zoom / 2) / size_x, 1 - (top + high * zoom + 3) / size_y
            shown = figure.text(x, y, word, ha="center", va="top", fontsize=8.5)
            shown.set_parse_math(False)  # a word may hold a dollar sign
            figure.text(x, y - 14 / size_y, below, ha="center", va="top", fontsize=6.5, color=figures.GREY)
        figure.figimage(canvas_YX3, 0, 0, origin="upper")
        _save_in_full_colour(figure, path)


def _save_in_full_colour(figure: Figure, path: Path) -> None:
    """As `figures` saves, but with all colours: mixed channels and named colours are more than a palette holds."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # text of any script
        figure.savefig(buffer, format="png", dpi=figures.DPI, metadata={"Software": None})
    write_atomically(Path(path), buffer.getvalue())


def _composite(latent_CHW: ndarray) -> ndarray:
    """Channels mixed to red, green and blue: the first three principal components over pixels, middle 96 % stretched.

    Each colour is stretched by itself, so its strength says nothing of the component's. Flat or not finite is grey.
    """
    channels, high, wide = latent_CHW.shape
    if not np.isfinite(latent_CHW).all():
        return np.full((high, wide, 3), 0.5)
    pixel_NC = latent_CHW.reshape(channels, -1).T
    component_N3, _ = _principal_components(pixel_NC, 3)
    low_3, high_3 = np.quantile(component_N3, (0.02, 0.98), axis=0)
    span_3 = high_3 - low_3
    flat_3 = span_3 <= 1e-9 * max(np.abs(pixel_NC).max(), 1e-300)
    stretched_N3 = np.clip((component_N3 - low_3) / np.where(flat_3, 1, span_3), 0, 1)
    return np.where(flat_3, 0.5, stretched_N3).reshape(high, wide, 3)


def _stretched(map_HW: ndarray, shape: tuple[int, int]) -> ndarray:
    """Each place as a block of pixels, for grids that do not divide the picture as well."""
    row_Y, column_X = (np.arange(n) * m // n for n, m in zip(shape, map_HW.shape, strict=True))
    return map_HW[row_Y[:, None], column_X]


def _line(axes: Axes, x_S: ndarray, value_S3: ndarray, order: int, label: str) -> None:
    colour, marker = figures.COLOURS[order % len(figures.COLOURS)], figures.MARKERS[order % len(figures.MARKERS)]
    axes.errorbar(
        x_S,
        value_S3[:, 0],
        _whiskers(value_S3),
        color=colour,
        marker=marker,
        ms=4.5,
        capsize=2,
        elinewidth=1,
        label=label,
    )


def _whiskers(value_N3: ndarray) -> ndarray:
    """Lengths below and above the value; none where no interval was measured."""
    below_N, above_N = value_N3[:, 0] - value_N3[:, 1], value_N3[:, 2] - value_N3[:, 0]
    return np.nan_to_num(np.stack((below_N, above_N))).clip(0)


def _facts(count: int) -> str:
    return "1 fact" if count == 1 else f"{count} facts"


def _check_shape(name: str, array: ndarray, wanted: tuple[int, ...]) -> None:
    if array.shape != wanted:
        raise ValueError(f"{name} has the shape {array.shape}; wanted {wanted}, the last axis (value, low, high)")
