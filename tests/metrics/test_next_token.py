"""Divergence and perplexity against closed forms and torch's own losses; masks; what the historic averages hid."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from inscape.metrics.next_token import next_token_kl, perplexity, sequence_kl, sequence_nll


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- divergence ---------------------------------------------------------------------------------------------------


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_two_outcomes_have_a_closed_form(p: float, q: float) -> None:
    wanted = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    reference, other = (torch.tensor([[[math.log(x), math.log(1 - x)]]], dtype=torch.float64) for x in (p, q))
    assert sequence_kl(reference + 5.0, other - 2.0)[0] == pytest.approx(wanted, abs=1e-12), "logits may be shifted"


def test_it_is_torchs_divergence_averaged_over_kept_tokens() -> None:
    reference_BNV, other_BNV = logits(3, 5, 40), logits(3, 5, 40, seed=1)
    keep_BN = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    p_BNV, q_BNV = reference_BNV.double().log_softmax(-1), other_BNV.double().log_softmax(-1)
    kl_BN = functional.kl_div(q_BNV, p_BNV, reduction="none", log_target=True).sum(-1)
    wanted = [float(kl_BN[b][keep_BN[b]].mean()) for b in range(3)]
    assert sequence_kl(reference_BNV, other_BNV, keep_BN) == pytest.approx(wanted, rel=1e-9)
    assert sequence_kl(reference_BNV, other_BNV) == pytest.approx(kl_BN.mean(1).numpy(), rel=1e-9)
    assert next_token_kl(reference_BNV, other_BNV, keep_BN).value == pytest.approx(np.mean(wanted))
    assert next_token_kl(reference_BNV, other_BNV, keep_BN).n == 3, "sequences are counted, never tokens"
    assert sequence_kl(other_BNV, reference_BNV)[0] != pytest.approx(sequence_kl(reference_BNV, other_BNV)[0])


def test_the_same_run_has_none_and_a_nearly_same_one_nearly_none() -> None:
    same_BNV = logits(2, 4, 5000)
    assert sequence_kl(same_BNV, same_BNV).tolist() == [0.0, 0.0]
    nearly = sequence_kl(same_BNV, same_BNV + 1e-3 * logits(2, 4, 5000, seed=2))
    assert ((nearly > 0) & (nearly < 1e-4)).all(), "not drowned in rounding"


def test_what_stands_in_padding_does_not_count() -> None:
    reference_BNV, other_BNV = logits(2, 3, 7), logits(2, 3, 7, seed=1)
    keep_BN = torch.tensor([[True, True, False], [True, True, True]])
    spoiled_BNV = other_BNV.clone()
    spoiled_BNV[0, 2] = torch.nan
    assert np.array_equal(
        sequence_kl(reference_BNV, spoiled_BNV, keep_BN), sequence_kl(reference_BNV, other_BNV, keep_BN)
    )


def test_ids_that_are_never_predicted_cost_nothing_and_impossible_ones_everything() -> None:
    reference, other = torch.tensor([[[0.0, 0.0, -torch.inf]]]), torch.tensor([[[0.0, 0.0, 0.0]]])
    assert sequence_kl(reference, other)[0] == pytest.approx(math.log(3 / 2))
    assert sequence_kl(other, reference)[0] == math.inf


def test_logits_that_cannot_be_compared_are_one_line() -> None:
    with pytest.raises(ValueError, match="must read the same continuation"):
        sequence_kl(logits(1, 3, 5), logits(1, 4, 5))
    with pytest.raises(ValueError, match="1 of 2 sequences have no token"):
        sequence_kl(logits(2, 2, 5), logits(2, 2, 5), torch.tensor([[True, True], [False, False]]))
    with pytest.raises(ValueError, match=r"the mask has shape \(2, 3\) and type torch\.bool; wanted bool \(2, 2\)"):
        sequence_kl(logits(2, 2, 5), logits(2, 2, 5), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="not a number"):
        sequence_kl(logits(1, 1, 5), torch.full((1, 1, 5), torch.nan))


# --- likelihood ---------------------------------------------------------------------------------------------------


def test_the_mean_is_the_loss_that_transformers_computes_from_labels() -> None:
    pytest.importorskip("transformers")
    from inscape.pretrained.language_model import open_language_model

    lm = open_language_model("tiny")
    ids_BT = torch.randint(0, 256, (3, 12), generator=torch.Generator().manual_seed(0))
    keep_BT = torch.ones(3, 12, dtype=torch.bool)
    keep_BT[0, 7:] = False
    rows_BTD = lm.table_VD[ids_BT].requires_grad_()
    out = lm.model(inputs_embeds=rows_BTD, attention_mask=keep_BT.long(), labels=ids_BT.masked_fill(~keep_BT, -100))
    found = sequence_nll(out.logits, ids_BT, keep_BT)
    assert found.tokens_B.tolist() == [6, 11, 11]
    assert found.mean.item() == pytest.approx(out.loss.item(), rel=1e-5)
    (wanted_BTD,) = torch.autograd.grad(out.loss, rows_BTD, retain_graph=True)
    (got_BTD,) = torch.autograd.grad(found.mean, rows_BTD)
    assert torch.allclose(got_BTD, wanted_BTD, atol=1e-6), "a second phase can be trained with it"
    assert wanted_BTD.abs().max() > 0


def test_padding_may_stand_on_either_side() -> None:
    logits_BTV, ids_BT = logits(1, 6, 9), torch.tensor([[1, 2, 3, 4, 5, 6]])
    left = torch.tensor([[False, False, True, True, True, True]])
    cut = sequence_nll(logits_BTV[:, 2:], ids_BT[:, 2:])
    assert sequence_nll(logits_BTV, ids_BT, left).nats_B == pytest.approx(cut.nats_B)
    assert sequence_nll(logits_BTV, ids_BT, left).tokens_B.tolist() == [3]


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary() -> None:
    found = sequence_nll(torch.zeros(4, 8, 50), torch.randint(0, 50, (4, 8)))
    measured = perplexity(found.nats_B.numpy(), found.tokens_B.numpy())
    assert measured.value == pytest.approx(50, rel=1e-5)
    assert (measured.low, measured.high) == pytest.approx((50, 50), rel=1e-5)
    assert measured.n == 4


def test_every_token_counts_the_same_and_sequences_are_what_is_drawn() -> None:
    nats, tokens = [10.0, 300.0, 20.0], [10, 100, 10]
    measured = perplexity(nats, tokens)
    assert measured.value == pytest.approx(math.exp(330 / 120))
    assert math.exp(1) <= measured.low < measured.value < measured.high <= math.exp(3)
    assert perplexity(nats, tokens) == measured, "the same every time"
    assert math.isnan(perplexity([3.0], [3]).low)
    assert perplexity([3.0], [3]).value == pytest.approx(math.e)
    assert not perplexity([], []).measured
    assert not perplexity([1e6, 1e6], [1, 1]).measured, "infinite, and said to be so without a warning"


def test_counts_that_make_no_sense_are_one_line() -> None:
    with pytest.raises(ValueError, match="wanted one row of logits for each id"):
        sequence_nll(logits(1, 3, 5), torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="1 of 1 sequences have no token to count"):
        sequence_nll(logits(1, 1, 5), torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="wanted one of each"):
        perplexity([1.0, 2.0], [1])
    with pytest.raises(ValueError, match="finite nats, and one or more tokens"):
        perplexity([1.0], [0])
