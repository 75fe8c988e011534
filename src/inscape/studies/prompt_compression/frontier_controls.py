"""Controls of C3 that fit or ask once more: of what reaches an answer besides the context, and of too small a fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from inscape.compressors.pca import Pca
from inscape.core.estimate import Estimate
from inscape.data.questions import Prompt
from inscape.metrics.kept_share import mean_difference
from inscape.pretrained.language_model import LanguageModel
from inscape.studies.prompt_compression.asking import AskingConfig, ids_of, listen_to_text
from inscape.studies.prompt_compression.reconstruction import explained
from inscape.studies.prompt_compression.scoring import UNIT, answered, f1_of_each, groups_of, with_other_contexts
from inscape.studies.prompt_compression.ways import MAKERS, Known, Material, fitted

__all__ = ["LEAKS", "explained_gap", "leaked_gain"]

LEAKS = 3  # other contexts that are put under each question: of one alone the interval is as wide as the bound


def leaked_gain(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    asking: AskingConfig,
    material: Material,
    deciding: Collection[tuple[str, float]],
) -> Estimate:
    """F1 of LEAKS other contexts under one's own question, compressed by the way that decides, less that in plain text.

    By the row-wise one, which is handed the question too; where none decides, by one that is handed contexts alone.
    """
    name, ratio = min(deciding, key=lambda each: (MAKERS[each[0]](2.0, Known()).needs_context_only, each))
    way = fitted(lm, name, ratio, material)
    scores = []
    for k in range(LEAKS):
        mixed = with_other_contexts(prompts, material.seed + k)
        heard = answered(lm, way, mixed, asking).heard, listen_to_text(lm, mixed, asking)
        scores.append([f1_of_each(each, prompts) for each in heard])
    led, plain = np.mean(scores, axis=0).tolist()
    return mean_difference(led, plain, groups=groups_of(prompts), unit=UNIT)


def explained_gap(
    lm: LanguageModel, ratios: Iterable[float], prompts: Sequence[Prompt], material: Material
) -> Estimate:
    """The largest of the PCAs of these ratios; see C1's. Where there is none, of one that keeps every number."""
    ids = [ids_of(lm, prompt) for prompt in prompts]
    found = []
    for ratio in sorted(set(ratios) or {1.0}):
        pca = fitted(lm, "pca", ratio, material)
        assert isinstance(pca, Pca)
        found.append(explained(lm, pca, ids)["explained_gap"])
    return max(found, key=lambda estimate: estimate.value)
