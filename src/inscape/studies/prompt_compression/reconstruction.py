"""C1: if the rows that a model is fed are close to its own, does it answer as it would have answered?

Method: phase 1 of the plan. Token rows are projected to d = D / ratio numbers (PCA, Pearson 1901, fitted on the rows
of min(5000, n / 2) training prompts), and a small adapter learns to make rows of them by mean squared error alone. Then
the model is fed the rows of held-out prompts and writes its answers. The length of a prompt is not compressed, only its
width. Beside it stand receivers that need no training: the transposed projection, the linear inverse in closed form, a
random projection; and, always, the context's first tokens, as many as the same bits would carry as ids.

A negative result would mean that a small error in every row is a large one in what is read: rows by themselves are not
what has to be preserved.

Cost: quick is a minute and a half on 2 CPU cores once the model is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from inscape.compressors.adapter import Adapter, AdapterConfig, train_adapter
from inscape.compressors.controls import EmptyContext, travels_alone
from inscape.compressors.diagnostics import (
    DIAGNOSTICS,
    append_diagnostics,
    complete_diagnostics,
    peak_memory,
    reconstruction_values,
)
from inscape.compressors.id_equivalence import recovered_ids
from inscape.compressors.interface import Compressor, row_width
from inscape.compressors.linear_inverse import LinearInverse
from inscape.compressors.pca import Pca
from inscape.compressors.projection import NUMBERS, explained_share, moments_of_prompts, projected
from inscape.compressors.random_orthogonal import RandomOrthogonal
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.study import Context, Phase, Remedy
from inscape.data.questions import Prompt
from inscape.metrics.kept_share import mean_difference
from inscape.metrics.qa import mean_over_questions
from inscape.metrics.row_reconstruction import row_reconstruction
from inscape.nn.embedding_adapter import EmbeddingAdapter
from inscape.optimization import learning_rate
from inscape.pretrained.language_model import LanguageModel
from inscape.stopping import part_of
from inscape.studies.prompt_compression.asking import (
    Asked,
    AskingConfig,
    QuestionData,
    answered_from_text,
    ask,
    check_asking,
    check_groups_of,
    ids_of,
    keep_questions,
    open_model,
    prompts_of,
    training_questions,
)
from inscape.studies.prompt_compression.instrument import replay
from inscape.studies.prompt_compression.scoring import (
    EMPTY_KEPT,
    UNIT,
    f1_of_each,
    f1_of_others,
    groups_of,
    keep_answers,
    measure_answers,
    measure_divergence,
    measure_equal_bits,
    tell,
    tokens_recovered,
)

__all__ = [
    "ADAPTER",
    "CONTROLS",
    "GATE",
    "PHASE",
    "REPLAYED",
    "Config",
    "close_diary",
    "diary",
    "explained",
    "loss_over_first",
    "measure_adapter",
]

ADAPTER = "adapter.safetensors"  # in the run: the fitted compressor
REPLAYED = 16  # prompts answered from ids as well
BASELINES = ("pca", "linear_inverse", "random_orthogonal", "truncated")  # the last is measured even if not named


@dataclass(frozen=True)
class Config:
    """One training of an adapter. The defaults are the plan's sizes."""

    data: QuestionData = field(default_factory=QuestionData)
    asking: AskingConfig = field(default_factory=AskingConfig)
    train: int = 10_000  # training prompts
    ratio: float = 8.0  # D / d: numbers of a row before and after
    wire: str = "float16"  # what the d numbers are sent as: float32 | float16 | bfloat16
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    watched: int = 32  # further training questions, on which nothing is trained: evaluations on the way ask them
    baselines: tuple[str, ...] = BASELINES  # receivers that need no training, asked beside it

    def __post_init__(self) -> None:
        for name, least in (("train", 3), ("watched", 2)):
            if not least <= getattr(self, name) <= 10**7:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: {least} to 10000000")
        if not (math.isfinite(self.ratio) and self.ratio >= 1):
            raise ValueError(
                f"ratio={self.ratio} is out of range; allowed: numbers from 1 on that divide the model's rows"
            )
        if self.wire not in NUMBERS:
            raise ValueError(f"wire={self.wire!r} is not known; allowed: {', '.join(NUMBERS)}")
        if unknown := [name for name in self.baselines if name not in BASELINES]:
            raise ValueError(f"baselines={unknown} are not known; allowed: {', '.join(BASELINES)}")


CONTROLS = (
    Criterion("replay_identical", at_least=1, role="control", source="calibrated", why="fed its own rows, the model "
              "must write what it writes when fed ids"),
    Criterion("id_equivalence", at_least=1, role="control", source="calibrated", why="the d numbers, as they are sent, "
              "still tell every token to who owns the table: what is lost, is lost by the receiver"),
    Criterion("explained_gap", at_most=0.05, role="control", source="calibrated", why="variance explained of the rows "
              "it was fitted on, less that of held-out prompts: fitted on too few, it explains those and no others"),
    Criterion("travels_alone", at_least=1, role="control", source="calibrated", why="a receiver that is given the "
              "original rows' norms was told what nobody sent"),
    Criterion("shuffled_gain", at_most=0.1, role="control", source="calibrated", why="what is answered to "
              "another prompt must be right no oftener than what is answered to an empty context"),
    Criterion("equal_bits_honoured", at_least=1, role="control", source="calibrated", why="truncation at equal bytes "
              "gets the ids that the same bits carry: more would outdo, fewer flatter what it stands beside"),
    EMPTY_KEPT,
)  # fmt: skip

GATE = Gate(
    (
        # The plan's.
        Criterion("f1", at_least=0.70, partial=0.50, why="70 % validates the hypothesis, 50 to 70 % goes to phase 2"),
        Criterion("recon_cosine", at_least=0.9, why="reconstruction is good"),
        Criterion("recon_mse", at_most=0.5, why="reconstruction is good"),
        Criterion("loss_over_first", at_most=0.99, why="the loss falls: its last tenth over its first"),
        # Ours.
        Criterion("f1_kept", at_least=0.9, source="calibrated", why="of what the same model answers from the text: "
                  "70 % is of a model that reaches 80 %"),
        *CONTROLS,
    )
)  # fmt: skip

REMEDIES = (
    Remedy(
        ("f1", "f1_kept", "recon_cosine"), {"ratio": lambda ratio: ratio / 2}, "if not: try d = 1024 instead of 512"
    ),
    Remedy(("f1", "f1_kept"), {"adapter.hidden_mult": lambda mult: 2 * mult}, "if not: try a larger adapter"),
    Remedy(("f1", "f1_kept"), {"adapter.epochs": lambda epochs: 2 * epochs}, "if not: train longer"),
)


def diary(
    run: RunDir,
    lm: LanguageModel,
    pca: Pca,
    config: AdapterConfig,
    train: int,
    watched: Sequence[Prompt],
    asking: AskingConfig,
) -> Callable[[EmbeddingAdapter, int], Mapping[str, float]]:
    """What an evaluation does: a few questions are answered, and the plan's line is written.

    What is right is what is right in the run: under asking.gold=own the answers to the whole text, asked for here.
    """
    scored = answered_from_text(lm, watched, asking).prompts

    def evaluate(module: EmbeddingAdapter, step: int) -> Mapping[str, float]:
        compressor = Adapter(pca, config, module)
        values: dict[str, float | None] = dict(
            reconstruction_values(compressor, lm, [ids_of(lm, prompt) for prompt in watched])
        )
        if scored:
            values["quick_f1"] = 100 * float(np.mean(f1_of_each(tell(lm, compressor, scored, asking).heard, scored)))
        values["lr"] = learning_rate(config.fit_config(train), step - 1)
        values["memory"] = peak_memory(lm.device)
        append_diagnostics(run.path / DIAGNOSTICS, step, step * config.batch / train, values)
        return {name: value for name, value in values.items() if value is not None and name != "memory"}

    return evaluate


def close_diary(part: RunDir, metrics: Mapping[str, Estimate]) -> None:
    """Give the diary's last line the scores on all held-out questions."""
    scores = {"f1": 100 * metrics["f1"].value, "em": 100 * metrics["exact_match"].value}
    complete_diagnostics(part.path / DIAGNOSTICS, scores)


def loss_over_first(part: RunDir) -> Estimate:
    """Mean loss of the last tenth of the steps over that of the first tenth, by the log."""
    losses = [line["loss"] for line in part.read_log() if line.get("kind") == "train"]
    few = max(1, len(losses) // 10)
    if len(losses) < 2:
        return Estimate(float("nan"), float("nan"), float("nan"), len(losses), "log lines")
    return exact(float(np.mean(losses[-few:]) / np.mean(losses[:few])), len(losses), "log lines")


def measure_adapter(
    lm: LanguageModel,
    compressor: Adapter,
    asked: Asked,
    train: Sequence[Prompt],
    asking: AskingConfig,
    seed: int,
) -> tuple[dict[str, Estimate], dict[str, list[str]]]:
    """Everything that the gates of C1 and C2 ask of a fitted adapter, and the answers by the name of who gave them."""
    prompts, text = asked
    told, empty = tell(lm, compressor, prompts, asking), tell(lm, EmptyContext(), prompts, asking).heard
    assert isinstance(compressor.inner, Pca)
    others = f1_of_others(told.heard.answers, prompts, seed)
    groups, ids = groups_of(prompts), [ids_of(lm, prompt) for prompt in prompts]
    own_rows = [lm.rows(prompt.ids) for prompt in prompts]
    rows = row_reconstruction(own_rows, list(told.fed), groups=groups, unit=UNIT)  # type: ignore[misc]
    without = measure_answers(empty, text, prompts)
    bits = [compressor.bits(sent) / sent.tokens for sent in told.sent]
    metrics = {
        **measure_answers(told.heard, text, prompts),
        **measure_equal_bits(lm, compressor, prompts, asking, text, told.heard),
        "recon_cosine": rows.cosine,
        "recon_mse": rows.mse,
        "recon_relative_error": rows.relative_error,
        "next_token_kl": measure_divergence(lm, told.fed, text, prompts),
        "tokens_recovered": tokens_recovered(lm, told.fed, prompts),
        "bits_per_token": mean_over_questions(bits, groups=groups, unit=UNIT),
        "replay_identical": replay(lm, prompts[:REPLAYED], text, asking),
        "id_equivalence": told_apart(lm, compressor, ids),
        **explained(lm, compressor.inner, ids),
        "travels_alone": exact(float(alone(lm, compressor, ids)), 1, "pairs of prompts"),
        "shuffled_gain": mean_difference(others, f1_of_each(empty, prompts), groups=groups, unit=UNIT),
        "text_f1": measure_answers(text, text, prompts)["f1"],
        "empty_f1": without["f1"],
        "empty_f1_kept": without["f1_kept"],
    }
    answers = {"text": text.answers, "adapter": told.heard.answers, "empty": empty.answers}
    return metrics, answers


def told_apart(lm: LanguageModel, compressor: Adapter, ids: Sequence[Tensor]) -> Estimate:
    """Share of tokens whose id a receiver with the table reads out of the very numbers that this compressor sends."""
    inner = compressor.inner
    share = recovered_ids(projected(inner), lm, ids, wire=inner.wire).recovered
    return exact(share.value, share.n, "prompts")


def explained(lm: LanguageModel, pca: Pca, ids: Sequence[Tensor]) -> dict[str, Estimate]:
    """Share of variance that the projection explains, of the rows it was fitted on and of held-out prompts' `ids`."""
    held_out = moments_of_prompts(lm, ids)
    share = explained_share(projected(pca), held_out)
    return {
        "explained_variance": exact(pca.explained, pca.token_rows, "token rows"),
        "explained_variance_held_out": exact(share, held_out.token_rows, "token rows"),
        "explained_gap": exact(pca.explained - share, held_out.token_rows, "token rows"),
    }


def alone(lm: LanguageModel, compressor: Compressor, ids: Sequence[Tensor]) -> bool:
    """`travels_alone` on two prompts, cut to one length."""
    length = min(len(ids[0]), len(ids[1]))
    return travels_alone(compressor, lm, ids[0][:length], ids[1][:length])


def baselines(
    lm: LanguageModel,
    compressor: Adapter,
    config: Config,
    asked: Asked,
    train: Sequence[Prompt],
    seed: int,
) -> dict[str, Estimate]:
    """F1 of receivers that need no training."""
    ids = [ids_of(lm, prompt) for prompt in train]
    prompts, text = asked
    made: dict[str, Compressor] = {
        "pca": compressor.inner,
        "linear_inverse": LinearInverse(compressor.inner),
        "random_orthogonal": RandomOrthogonal(config.ratio, wire=config.wire),
    }
    found = {}
    for name, each in ((name, made[name]) for name in config.baselines if name in made):
        fitted = each if name == "pca" else each.fit(lm, ids, seed=seed)
        scores = measure_answers(tell(lm, fitted, prompts, config.asking).heard, text, prompts)
        found |= {f"{name}_f1": scores["f1"], f"{name}_f1_kept": scores["f1_kept"]}
    return found


def run(context: Context) -> Mapping[str, Estimate]:
    """Fit the projection, train the adapter, answer."""
    config: Config = context.config
    asking = config.asking
    lm = open_model(asking, context.device)
    row_width(lm.dimension, config.ratio)  # refuses one that does not divide it
    train = prompts_of(lm, training_questions(config.data, config.train + config.watched, context.seed), asking)
    asked = ask(lm, config.data, asking, check_groups_of)
    watched, train = train[: config.watched], train[config.watched :]
    ids = [ids_of(lm, prompt) for prompt in train]
    pca = Pca(config.ratio, wire=config.wire).fit(lm, ids, seed=context.seed)
    with part_of(context.run, "training") as part:
        evaluate = diary(part, lm, pca, config.adapter, len(train), watched, asking)
        module = train_adapter(lm, pca, ids, config.adapter, part, seed=context.seed, evaluate=evaluate)
        falls = loss_over_first(part)
    compressor = Adapter(pca, config.adapter, module)
    compressor.save(context.run.path / ADAPTER)
    metrics, answers = measure_adapter(lm, compressor, asked, train, asking, context.seed)
    close_diary(part, metrics)
    metrics |= baselines(lm, compressor, config, asked, train, context.seed)
    metrics |= {
        "loss_over_first": falls,
        "compression_ratio": exact(config.ratio, 1, "rows"),
        "parameters": exact(sum(p.numel() for p in module.parameters()), 1, "adapters"),
    }
    keep_answers(context.run, asked.prompts, answers)
    keep_questions(context.run, config.data, asking, train)
    return metrics


PHASE = Phase(
    code="C1",
    name="reconstruction",
    question="If the rows a model is fed are close to its own, does it answer as it would have answered?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=("C0",),
    remedies=REMEDIES,
    check=lambda config: check_asking(config.data, config.asking, config.train + config.watched, shuffled=True),
    failure_means="A small error in every row is a large one in what is read: close rows are not what must be kept.",
)
