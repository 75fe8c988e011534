"""Every id is read back from compressed rows, down to one number a row; ties are named, and a loss is seen."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from table_only_model import TableOnly, planted_model, planted_prompts

from inscape.compressors import id_equivalence
from inscape.compressors.id_equivalence import identical_rows, nearest_rows, recovered_ids
from inscape.compressors.pca import Pca
from inscape.compressors.projection import Projection, project
from inscape.compressors.random_orthogonal import random_basis

D = 16
LM, PROMPTS = planted_model(width=D), planted_prompts()


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
def test_every_token_is_recovered_at_every_width(width: int) -> None:
    pca = Pca(D / width).fit(LM, PROMPTS, seed=0)
    assert pca.projection is not None
    found = recovered_ids(pca.projection, LM, PROMPTS)
    assert (found.recovered.value, found.recovered.low, found.recovered.n) == (1.0, 1.0, len(PROMPTS))
    assert (found.wrong, found.identical) == ((), ())


def test_one_number_a_row_tells_fifty_thousand_rows_apart() -> None:
    """As many rows as SmolLM2 has; the closest two numbers lie about 1e-11 apart, beyond what float32 can hold."""
    lm = TableOnly(torch.randn(49_152, 8, generator=torch.Generator().manual_seed(0)) / 16)
    projection = Projection(lm.table_VD.double().mean(0), random_basis(8, 1, 0))
    number_V = project(projection, lm.table_VD)
    assert number_V.unique().numel() == 49_152 > number_V.float().unique().numel()
    asked = torch.arange(0, 49_152, 7)
    assert recovered_ids(projection, lm, [asked]).recovered.value == 1.0


def test_what_a_wire_cannot_tell_apart_is_lost() -> None:
    """The share that comes back is that of rows which are the first with their rounded number."""
    lm = TableOnly(torch.randn(5_000, 8, generator=torch.Generator().manual_seed(0)) / 16)
    projection = Projection(lm.table_VD.double().mean(0), random_basis(8, 1, 0))
    sent_V = project(projection, lm.table_VD).flatten().half().numpy()
    first = np.unique(sent_V, return_index=True)[1]
    found = recovered_ids(projection, lm, [torch.arange(5_000)], wire="float16")
    assert found.recovered.value == pytest.approx(len(first) / 5_000)
    assert len(first) < 4_900
    wide = Projection(lm.table_VD.double().mean(0), random_basis(8, 4, 0))
    assert recovered_ids(wide, lm, [torch.arange(5_000)], wire="float16").recovered.value == 1


def test_equal_rows_are_named_and_not_counted_as_lost() -> None:
    table_VD = LM.table_VD.clone()
    table_VD[[7, 31, 50]] = LM.table_VD[[3, 3, 49]]
    lm = TableOnly(table_VD)
    prompts = [torch.tensor([3, 7, 31, 12]), torch.tensor([5, 5])]
    found = recovered_ids(Projection(table_VD.double().mean(0), random_basis(D, 4, 0)), lm, prompts)
    assert found.recovered.value == 1.0
    assert found.identical == ((3, 7, 31),)  # 49 and 50 are equal as well, and no prompt has them
    assert identical_rows(table_VD)[1] == ((3, 7, 31), (49, 50))
    assert identical_rows(torch.tensor([[0.0, 1], [-0.0, 1], [1, 0], [1, 1e-30]]))[1] == ((0, 1),)


def test_a_projection_that_makes_rows_equal_is_caught() -> None:
    """Rows that differ only outside of the kept direction: the control must fall, and say which."""
    table_VD = LM.table_VD.clone()
    table_VD[9] = LM.table_VD[4]
    table_VD[9, -1] += 1.0
    axis = Projection(torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)[:, :1])
    found = recovered_ids(axis, TableOnly(table_VD), [torch.tensor([4, 9])])
    assert found.recovered.value == 0.5
    assert found.wrong == ((9, 4),)


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.0, 2.0))
def test_nearest_is_that_of_brute_force(seed: int, width: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    table_VD = torch.randn(80, 6, generator=generator)
    projection = Projection(torch.ones(6, dtype=torch.float64), random_basis(6, width, seed))
    latent_Nd = project(projection, table_VD[::3])
    latent_Nd = latent_Nd + noise * torch.randn(latent_Nd.shape, generator=generator, dtype=torch.float64)
    far_NV = (latent_Nd[:, None] - project(projection, table_VD)[None]).square().sum(2)
    assert torch.equal(nearest_rows(latent_Nd, table_VD, projection), far_NV.argmin(1))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    projection = Projection(LM.table_VD.double().mean(0), random_basis(D, 2, 0))
    latent_Nd = project(projection, LM.table_VD) + 0.05
    whole = nearest_rows(latent_Nd, LM.table_VD, projection)
    monkeypatch.setattr(id_equivalence, "BLOCK", 7)
    assert torch.equal(nearest_rows(latent_Nd, LM.table_VD, projection), whole)
    assert len(np.unique(whole)) > 10


def test_points_closer_than_the_expansion_can_see_are_told_apart() -> None:
    """1e-12 apart at a distance of 1: squares differ by 1e-24, which |z|^2 - 2zp + |p|^2 rounds away."""
    table_VD = torch.tensor([[1.0], [1.0 + 1e-12], [1.0 - 1e-12]], dtype=torch.float64)
    projection = Projection(torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    assert nearest_rows(table_VD, table_VD, projection).tolist() == [0, 1, 2]
