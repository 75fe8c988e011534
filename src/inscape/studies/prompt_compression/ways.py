"""The ways of compressing that C3 sets side by side: by name, or trained before and read from files.

A way that fits nothing, or what can be fitted in closed form, is made for each ratio; one that was trained has the
ratio that it was trained for. `left_out` says which ratios a model and its contexts do not allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from inscape.compressors.adapter import Adapter
from inscape.compressors.attention_matching import AttentionMatching
from inscape.compressors.interface import Compressor, row_width, vector_count
from inscape.compressors.kv_pruning import KvPruning
from inscape.compressors.linear_inverse import LinearInverse
from inscape.compressors.mean_pooled import MeanPooled, PooledEncoder
from inscape.compressors.memory_cache import CacheEncoder, MemoryCache
from inscape.compressors.memory_tokens import MemoryEncoder, MemoryTokens
from inscape.compressors.pca import Pca
from inscape.compressors.quantised import Quantised
from inscape.compressors.random_orthogonal import RandomOrthogonal
from inscape.compressors.stored import load_compressor
from inscape.compressors.truncation import EqualVectors
from inscape.data.questions import Prompt
from inscape.nn.lora import linear_sizes
from inscape.pretrained.language_model import LanguageModel

__all__ = [
    "MAKERS",
    "ON_COMPONENTS",
    "Known",
    "LeftOut",
    "Material",
    "Trained",
    "check_ways",
    "fitted",
    "known_of",
    "left_out",
    "load_trained",
]


class Known(NamedTuple):
    """What a way may have to know to be made."""

    prefix: tuple[int, ...] = ()  # ids in front of a context
    questions: tuple[tuple[int, ...], ...] = ()  # ids behind a context: some training questions, with their answers
    layers: int = 1  # of the model


# By name: a compressor of the ratio.
MAKERS: dict[str, Callable[[float, Known], Compressor]] = {
    "pca": lambda ratio, _: Pca(ratio, wire="float16"),
    "pca_int8": lambda ratio, _: Quantised(Pca(ratio, wire="float16"), 8),
    "pca_int4": lambda ratio, _: Quantised(Pca(ratio, wire="float16"), 4),
    "linear_inverse": lambda ratio, _: LinearInverse(Pca(ratio, wire="float16")),
    "random_orthogonal": lambda ratio, _: RandomOrthogonal(ratio, wire="float16"),
    "pooled_rows": lambda ratio, _: MeanPooled(ratio, wire="float16"),
    "mean_pooled_states": lambda ratio, known: MeanPooled(ratio, layer=known.layers, wire="float16"),
    "kv_attention": lambda ratio, known: KvPruning(ratio, prefix=known.prefix),
    "kv_matching": lambda ratio, known: AttentionMatching(ratio, known.prefix, known.questions),
    "kv_key_norm": lambda ratio, known: KvPruning(ratio, score="key_norm", prefix=known.prefix),
    "truncation": lambda ratio, _: EqualVectors(ratio),
}
QUESTIONS = 16  # of training, whose attention `kv_matching` keeps
ON_COMPONENTS = ("pca", "pca_int8", "pca_int4", "linear_inverse")  # those that send what a PCA keeps
Trained = Mapping[tuple[str, float], Compressor]  # by name and ratio


def known_of(lm: LanguageModel, train: Sequence[Prompt]) -> Known:
    """What this model and the training prompts tell, which begin as all others do; QUESTIONS of them, evenly drawn."""
    some = train[:: max(1, len(train) // QUESTIONS)][:QUESTIONS]
    told = tuple((*p.suffix_ids, *lm.encode(p.question.answers[0])) for p in some)
    return Known(train[0].prefix_ids, told, _layers(lm))


def _layers(lm: LanguageModel) -> int:
    return int(lm.model.config.get_text_config().num_hidden_layers)


def load_trained(files: Sequence[str]) -> Trained:
    """Compressors that C1, C2 or C4 saved, by "trained_" and their kind, and by ratio, rising.

    Of one kind and one ratio the second in the list has "_2" behind its name, and so on: C1's adapter, and C2's.
    ValueError in one line for a file that holds no compressor, or one without a ratio, and for one that is named twice.
    """
    found: dict[tuple[str, float], Compressor] = {}
    if twice := next((file for i, file in enumerate(files) if file in files[:i]), None):
        raise ValueError(f"trained: {twice} is named twice; name it once")
    for file in files:
        compressor = load_compressor(Path(file))
        kind = f"trained_{compressor.kind}"  # type: ignore[attr-defined] - each names its kind
        if not math.isfinite(compressor.ratio):
            raise ValueError(f"trained: {file} holds {compressor.name}, which has no ratio; leave it out")
        names = (kind, *(f"{kind}_{number}" for number in range(2, len(files) + 1)))
        name = next(name for name in names if (name, compressor.ratio) not in found)
        found[name, compressor.ratio] = compressor
    return dict(sorted(found.items()))


class Material(NamedTuple):
    """What compressors are fitted on, and what a fit has to know."""

    trained: Trained
    known: Known
    ids: Mapping[bool, Sequence[Tensor]]  # of training prompts; True: of their contexts alone
    seed: int


def fitted(lm: LanguageModel, name: str, ratio: float, material: Material) -> Compressor:
    """The compressor of this name and ratio, ready to be asked; what was trained before is taken as it is."""
    if (name, ratio) in material.trained:
        return material.trained[name, ratio]
    made = MAKERS[name](ratio, material.known)
    return made.fit(lm, material.ids[made.needs_context_only], seed=material.seed)


class LeftOut(NamedTuple):
    """A ratio that a compressor cannot keep."""

    name: str
    ratio: float
    why: str


def left_out(
    lm: LanguageModel, names: Sequence[str], ratios: Sequence[float], trained: Trained, prompts: Sequence[Prompt]
) -> list[LeftOut]:
    """What cannot be kept with this model and these contexts. ValueError for a ratio that no compressor can keep."""
    shortest = min(len(prompt.context_ids) for prompt in prompts)
    asked = {(name, ratio): MAKERS[name](ratio, Known()) for ratio in ratios for name in names}
    found: list[LeftOut] = []
    for (name, ratio), made in {**asked, **trained}.items():
        try:
            if made.needs_context_only:
                vector_count(shortest, ratio)
            else:
                row_width(lm.dimension, ratio)
        except ValueError as error:
            found.append(LeftOut(name, ratio, str(error)))
    for ratio in ratios:
        missing = [one for one in found if one.ratio == ratio and one.name in names]
        if len(missing) == len(names):
            why = "; ".join(dict.fromkeys(one.why for one in missing))
            raise ValueError(f"ratios: none of {', '.join(names)} keeps {ratio:g}: {why}")
    return found


def check_ways(lm: LanguageModel, names: Sequence[str], trained: Trained, known: Known) -> None:
    """ValueError where one cannot read this model's attention or cache, or was trained for a model of another shape."""
    unusable: dict[str, str] = {}
    for name in names:
        made = MAKERS[name](1.0, Known())
        if isinstance(made, KvPruning | AttentionMatching):
            try:
                made.compress(lm, torch.zeros(1, dtype=torch.long, device=lm.device))
            except ValueError as error:
                unusable[name] = str(error).partition(";")[0]
    if unusable:
        others = [name for name in names if name not in unusable] or ["pca", "pooled_rows", "truncation"]
        raise ValueError(
            f"{' and '.join(unusable)} cannot be asked: {'; '.join(dict.fromkeys(unusable.values()))}; set "
            f"compressors=[{','.join(others)}]"
        )
    for (name, ratio), made in trained.items():
        if not _fits(lm, made):
            raise ValueError(
                f"trained: {name} at ratio {ratio:g} was made for another model than {lm.name}; name files of runs "
                "with the same asking.model"
            )
        if isinstance(made, KvPruning | MemoryCache | AttentionMatching) and made.prefix != known.prefix:
            raise ValueError(
                f"trained: {name} at ratio {ratio:g} was made behind a prefix of the ids {list(made.prefix)}, and "
                f"contexts here stand behind {list(known.prefix)}; name files of runs with the same asking.model"
            )
        try:
            made.compress(lm, torch.zeros(math.ceil(ratio), dtype=torch.long, device=lm.device))
        except ValueError as error:
            raise ValueError(f"trained: {name} at ratio {ratio:g} cannot be asked: {error}") from None


def _fits(lm: LanguageModel, made: Compressor) -> bool:
    """Whether all that was fitted, or trained, has the shapes of this model's rows and layers."""
    if isinstance(made, Adapter | LinearInverse | Quantised):
        return _fits(lm, made.inner)
    if isinstance(made, Pca | RandomOrthogonal):
        return made.projection is None or len(made.projection.mean_D) == lm.dimension
    if isinstance(made, MeanPooled) and made.layer > _layers(lm):
        return False
    if not isinstance(made, MemoryCache | MemoryTokens | MeanPooled) or made.encoder is None:
        return True
    sizes = made.encoder.sizes
    here = linear_sizes(lm.model, sorted({name.rpartition(".")[2] for name in sizes})) if sizes else {}
    return _width(made.encoder) in (None, lm.dimension) and all(here.get(n) == tuple(each) for n, each in sizes.items())


def _width(encoder: PooledEncoder | MemoryEncoder | CacheEncoder) -> int | None:
    """Of the rows that are fed, or of a memory token's; None without memory tokens."""
    if isinstance(encoder, PooledEncoder):
        return encoder.map.in_features
    return encoder.memory.embedding_dim if encoder.memory is not None else None
