"""C2: does it help to ask, besides close rows, that the model can foretell the prompt that it is fed?

Method: phase 2 of the plan, and only where phase 1 did not pass: its F1 fell into the plan's second tier (50 to 70 %),
or below it; or it was validated (70 %) short of the nine tenths of the text run's F1 that we ask for besides.
The adapter of C1 goes on with two terms: the squared error of its rows, and the cross-entropy of the prompt's own ids
when the frozen model is fed the made rows (never an answer: what is trained must be what is measured; Bengio et al.
2015 on why). Each term is divided by its running mean, so that both weigh alike whatever their units.

A negative result would mean that a prompt can be foretold from rows that do not let its question be answered.

Cost: quick about two minutes on 2 CPU cores: every step reads its prompts through the model, forth and back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from inscape.compressors.adapter import (
    Adapter,
    AdapterConfig,
    RowBatch,
    TrainingRows,
    made_rows,
    reconstruction_loss,
    row_batch,
    train_adapter,
    training_rows,
)
from inscape.core.config import from_yaml
from inscape.core.estimate import Estimate, exact
from inscape.core.gate import Criterion, Gate
from inscape.core.rundir import RunDir
from inscape.core.study import Context, Phase, Remedy
from inscape.metrics.kept_share import mean_difference
from inscape.metrics.next_token import sequence_nll
from inscape.metrics.qa import mean_over_questions
from inscape.pretrained.language_model import LanguageModel
from inscape.stopping import part_of
from inscape.studies.prompt_compression import reconstruction
from inscape.studies.prompt_compression.asking import (
    AskingConfig,
    Heard,
    QuestionData,
    ask,
    check_asking,
    check_groups_of,
    ids_of,
    keep_questions,
    open_model,
    prompts_of,
    training_questions,
)
from inscape.studies.prompt_compression.reconstruction import (
    ADAPTER,
    CONTROLS,
    close_diary,
    diary,
    measure_adapter,
)
from inscape.studies.prompt_compression.scoring import UNIT, f1_of_each, groups_of, keep_answers, tell

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["GATE", "PHASE", "Config", "balanced", "prompt_nll"]

MEANS = (
    "running_means"  # a buffer of the module while it is trained: checkpoints keep it, so a resumed run goes on alike
)


@dataclass(frozen=True)
class Config:
    """C1's training, continued."""

    data: QuestionData = field(default_factory=QuestionData)
    asking: AskingConfig = field(default_factory=AskingConfig)
    train: int = 10_000  # training prompts
    watched: int = 32  # further training questions, on which nothing is trained: evaluations on the way ask them
    adapter: AdapterConfig = field(default_factory=AdapterConfig)  # hidden_mult, dropout and norms are C1's

    def __post_init__(self) -> None:
        for name in ("train", "watched"):
            if not 2 <= getattr(self, name) <= 10**7:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: 2 to 10000000")


GATE = Gate(
    (
        Criterion("f1", at_least=0.70, partial=0.50, why="as in phase 1"),
        Criterion("recon_cosine", at_least=0.9, why="as in phase 1"),
        Criterion("loss_over_first", at_most=0.99, why="the loss falls: each term after over before, their mean"),
        Criterion("f1_kept", at_least=0.9, source="calibrated", why="of what the same model answers from the text"),
        Criterion("f1_gain", at_least=-0.02, source="calibrated", why="the second term may not cost answers"),
        *CONTROLS,
    )
)  # fmt: skip

REMEDIES = (Remedy(("f1", "f1_kept"), {"adapter.epochs": lambda epochs: 2 * epochs}, "if not: train longer"),)


OF_C1 = ("hidden_mult", "dropout", "norms")  # what makes the adapter, and not its training


def continued(config: Config, run: RunDir) -> tuple[Adapter, AdapterConfig]:
    """C1's adapter, and the training that goes on with it. ValueError where another adapter or model is asked for."""
    made_for = from_yaml(reconstruction.Config, run.path / RunDir.CONFIG).asking.model
    if config.asking.model != made_for:
        raise ValueError(
            f"asking.model={config.asking.model} is not the model of C1's adapter, {made_for}: run C1 with it first"
        )
    before = Adapter.load(run.path / ADAPTER)
    own = {name: getattr(before.config, name) for name in OF_C1}
    for name, value in own.items():
        asked = getattr(config.adapter, name)
        if asked not in (value, getattr(AdapterConfig(), name)):
            raise ValueError(
                f"adapter.{name}={asked} is not what C1's adapter was made with, {value}: leave it out, or run C1 with "
                f"it first; C2 goes on from {run.path}"
            )
    return before, replace(config.adapter, **own)


def prompt_nll(
    lm: LanguageModel, rows: Sequence[Float[Tensor, "T D"]], ids: Sequence[Int[Tensor, " T"]]
) -> Float[Tensor, ""]:
    """Nats a token of the prompts' own ids, each foretold from the rows before it; padding stands on the right."""
    rows_BTD = pad_sequence([row_TD.to(lm.dtype) for row_TD in rows], batch_first=True)
    ids_BT = pad_sequence(list(ids), batch_first=True)
    keep_BT = pad_sequence([torch.ones_like(ids_T, dtype=torch.bool) for ids_T in ids], batch_first=True)
    logits_BTV = lm.model(inputs_embeds=rows_BTD, use_cache=False).logits
    return sequence_nll(logits_BTV, ids_BT, keep_BT).mean


def both_losses(
    lm: LanguageModel,
    module: nn.Module,
    rows: TrainingRows,
    batch: RowBatch,
    sequences: Sequence[Int[Tensor, " T"]],
) -> tuple[Tensor, Tensor]:
    """Reconstruction and prompt perplexity of a batch, as they are: squared error, and nats a token."""
    norm_U = None if rows.norm_N is None else rows.norm_N[batch.place_U]
    made_UD = made_rows(module, rows.latent_Nd[batch.place_U], norm_U)
    at_N = torch.full((len(rows.latent_Nd),), -1, dtype=torch.long, device=made_UD.device)
    at_N[batch.place_U] = torch.arange(len(batch.place_U), device=made_UD.device)
    prompts = batch.prompt_B.tolist()
    fed = [made_UD[at_N[torch.from_numpy(rows.places[i]).to(made_UD.device)]] for i in prompts]
    return reconstruction_loss(module, rows, batch), prompt_nll(lm, fed, [sequences[i] for i in prompts])


@torch.no_grad()
def losses_over_first(
    lm: LanguageModel, before: Adapter, after: Adapter, sequences: Sequence[Int[Tensor, " T"]]
) -> dict[str, Estimate]:
    """Each loss of C2's adapter over that of C1's, on prompts that C2 did not train on, and the mean of both.

    The loss that is minimised says nothing of that: its terms are divided by their own running means, and stay at 1.
    """
    found = []
    for adapter in (before, after):
        assert adapter.module is not None
        module = copy.deepcopy(adapter.module).to(lm.device).eval()
        rows = training_rows(lm, adapter.inner, sequences, adapter.config.norms)
        each = [both_losses(lm, module, rows, row_batch(rows, [i]), sequences) for i in range(len(sequences))]
        found.append(torch.tensor(each).double().mean(0))
    recon, ppl = (found[1] / found[0]).tolist()
    ratios = {"loss_over_first": (recon + ppl) / 2, "recon_over_first": recon, "prompt_nll_over_first": ppl}
    return {name: exact(value, len(sequences), "prompts") for name, value in ratios.items()}


def balanced(
    lm: LanguageModel, sequences: Sequence[Int[Tensor, " T"]]
) -> Callable[[nn.Module, TrainingRows, RowBatch, int], dict[str, Tensor]]:
    """Both terms, each over 1e-8 and its running mean; the means live in the module's buffer `MEANS` (recon, ppl)."""

    def terms(module: nn.Module, rows: TrainingRows, batch: RowBatch, step: int) -> dict[str, Tensor]:
        recon, ppl = both_losses(lm, module, rows, batch, sequences)
        mean_2 = module.get_buffer(MEANS)
        mean_2 += (torch.stack((recon, ppl)).detach() - mean_2) / (step + 1)
        weight_2 = 1 / (mean_2 + 1e-8)
        return {"recon": weight_2[0].clone() * recon, "ppl": weight_2[1].clone() * ppl}

    return terms


def run(context: Context) -> Mapping[str, Estimate]:
    """Go on from C1's adapter, then answer."""
    config: Config = context.config
    asking = config.asking
    before, training = continued(config, context.inputs["C1"])
    assert before.module is not None
    lm = open_model(asking, context.device)
    train = prompts_of(lm, training_questions(config.data, config.train + config.watched, context.seed), asking)
    asked = ask(lm, config.data, asking, check_groups_of)
    prompts = asked.prompts
    watched, train = train[: config.watched], train[config.watched :]
    ids = [ids_of(lm, prompt) for prompt in train]
    before.module.register_buffer(MEANS, torch.zeros(2))
    with part_of(context.run, "training") as part:
        module = train_adapter(
            lm,
            before.inner,
            ids,
            training,
            part,
            seed=context.seed,
            module=before.module,
            loss_terms=balanced(lm, ids),
            evaluate=diary(part, lm, before.inner, training, len(train), watched, asking),  # type: ignore[arg-type]
        )
    del before.module._buffers[MEANS], module._buffers[MEANS]
    compressor = Adapter(before.inner, training, module)
    compressor.save(context.run.path / ADAPTER)
    metrics, answers = measure_adapter(lm, compressor, asked, train, asking, context.seed)
    close_diary(part, metrics)
    old = tell(lm, before, prompts, asking).heard
    keep_answers(context.run, prompts, answers | {"adapter of C1": old.answers})
    keep_questions(context.run, config.data, asking, train)
    now, then = f1_of_each(Heard([], answers["adapter"]), prompts), f1_of_each(old, prompts)
    drawn: dict[str, Any] = {"groups": groups_of(prompts), "unit": UNIT, "mostly_whole": True}
    return metrics | {
        **losses_over_first(lm, before, compressor, [ids_of(lm, prompt) for prompt in watched]),
        "f1_before": mean_over_questions(then, **drawn),
        "f1_gain": mean_difference(now, then, **drawn),
        "compression_ratio": exact(compressor.ratio, 1, "rows"),
    }


PHASE = Phase(
    code="C2",
    name="prompt perplexity",
    question="Does it help that the model can foretell the prompt it is fed, besides close rows?",
    config=Config,
    presets=Path(__file__).with_suffix(".yaml"),
    gate=GATE,
    run=run,
    needs=("C0",),
    mends="C1",
    mends_only=("f1", "f1_kept"),
    remedies=REMEDIES,
    check=lambda config: check_asking(config.data, config.asking, config.train + config.watched, shuffled=True),
    failure_means="A prompt can be foretold from rows that do not let its question be answered.",
)
