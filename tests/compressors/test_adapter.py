"""The trained receiver: its loss against the plain one, its norms and who pays for them, training and diagnostics."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from table_only_model import TableOnly, planted_model, planted_prompts

from inscape.compressors.adapter import (
    Adapter,
    AdapterConfig,
    made_rows,
    new_adapter,
    reconstruction_loss,
    row_batch,
    train_adapter,
    training_rows,
)
from inscape.compressors.controls import travels_alone
from inscape.compressors.diagnostics import (
    DIAGNOSTIC_KEYS,
    append_diagnostics,
    complete_diagnostics,
    peak_memory,
    read_diagnostics,
    reconstruction_values,
)
from inscape.compressors.interface import LATENT, Compressed, Injected
from inscape.compressors.linear_inverse import LinearInverse
from inscape.compressors.pca import Pca
from inscape.compressors.projection import rows_of
from inscape.compressors.quantised import Quantised
from inscape.compressors.stored import load_compressor
from inscape.core.rundir import RunDir

LM = planted_model()
PROMPTS = planted_prompts()
PCA = Pca(4.0).fit(LM, PROMPTS, seed=0)
QUICK = AdapterConfig(epochs=12, batch=4, lr=1e-2)


@functools.cache
def fitted(config: AdapterConfig = QUICK, seed: int = 0) -> Adapter:
    return Adapter(PCA, config).fit(LM, PROMPTS, seed=seed)


# --- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", ["none", "stored"])
def test_a_batch_made_on_the_cpu_is_taken_by_rows_on_another_device(norms: str) -> None:
    """As where C2 measures its losses outside of a training, which moves batches itself."""
    rows = training_rows(LM, PCA, PROMPTS, norms)
    batch = row_batch(rows, [0, 1])
    norm_N = None if rows.norm_N is None else rows.norm_N.to("meta")
    elsewhere = rows._replace(latent_Nd=rows.latent_Nd.to("meta"), row_ND=rows.row_ND.to("meta"), norm_N=norm_N)
    module = new_adapter(4, 16, AdapterConfig(norms=norms), seed=0).to("meta").eval()
    assert reconstruction_loss(module, elsewhere, batch).device.type == "meta"


@pytest.mark.parametrize("norms", ["none", "stored"])
def test_the_loss_is_the_mean_squared_error_of_all_token_rows(norms: str) -> None:
    config = AdapterConfig(norms=norms)
    module = new_adapter(4, 16, config, seed=0).eval()
    rows = training_rows(LM, PCA, PROMPTS, norms)
    found = reconstruction_loss(module, rows, row_batch(rows, [1, 4, 4, 7]))
    adapter = Adapter(PCA, config, module)
    tokens = torch.cat([PROMPTS[i] for i in (1, 4, 4, 7)])
    made_TD = adapter.inject(LM, adapter.compress(LM, tokens)).rows_MD
    torch.testing.assert_close(found, (made_TD - LM.table_VD[tokens]).square().mean())


def test_a_batch_has_each_id_once_with_its_share() -> None:
    rows = training_rows(LM, PCA, [torch.tensor([3, 5, 3]), torch.tensor([9]), torch.tensor([5, 40])])
    batch = row_batch(rows, [0, 2])
    torch.testing.assert_close(rows.row_ND[batch.place_U], LM.table_VD[[3, 5, 40]])
    torch.testing.assert_close(batch.share_U, torch.tensor([0.4, 0.4, 0.2]))


def test_it_is_trained_on_what_travels() -> None:
    half = replace(PCA, wire="float16")
    latent_Nd = training_rows(LM, half, PROMPTS).latent_Nd
    assert torch.equal(latent_Nd, latent_Nd.half().float())
    assert not torch.equal(latent_Nd, training_rows(LM, PCA, PROMPTS).latent_Nd)


# --- training -----------------------------------------------------------------------------------------------------


def test_training_beats_the_mean_row_and_goes_on_from_a_linear_start() -> None:
    base = reconstruction_values(LinearInverse(PCA).fit(LM, PROMPTS, seed=0), LM, PROMPTS)["recon_mse"]
    variance = float(LM.table_VD[torch.cat(PROMPTS)].var(0).mean())
    begun = reconstruction_values(fitted(replace(QUICK, lr=1e-9)), LM, PROMPTS)["recon_mse"]
    assert 0.8 * variance < begun < 1.2 * variance
    assert reconstruction_values(fitted(), LM, PROMPTS)["recon_mse"] < 0.5 * variance
    start = replace(QUICK, start="linear", lr=1e-9)
    assert reconstruction_values(fitted(start), LM, PROMPTS)["recon_mse"] == pytest.approx(base, rel=1e-4)
    assert reconstruction_values(fitted(replace(start, lr=2e-3)), LM, PROMPTS)["recon_mse"] < base


def test_training_is_a_function_of_the_seed() -> None:
    short = replace(QUICK, epochs=1)
    one, same, other = (Adapter(PCA, short).fit(LM, PROMPTS, seed=seed).module.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["out.weight"], other["out.weight"])


def test_a_training_in_a_run_continues_and_an_evaluation_keeps_a_diary(tmp_path) -> None:
    run = RunDir(tmp_path)
    config = replace(QUICK, epochs=4, eval_every=4)
    adapter = Adapter(PCA, config)

    def evaluate(module, step: int) -> dict[str, float]:
        values = reconstruction_values(replace(adapter, module=module), LM, PROMPTS)
        append_diagnostics(tmp_path / "diagnostics.jsonl", step, step * config.batch / len(PROMPTS), values)
        return values

    module = train_adapter(LM, PCA, PROMPTS, config, run, seed=0, evaluate=evaluate)
    diary = read_diagnostics(tmp_path / "diagnostics.jsonl")
    assert [line["step"] for line in diary] == [4, 8, 12]
    assert diary[-1]["recon_mse"] < diary[0]["recon_mse"]
    assert (diary[0]["compression_ratio"], diary[0]["f1"]) == (4.0, None)
    logged = [line["loss"] for line in run.read_log() if line["kind"] == "train"]
    assert logged
    assert adapter.fit(LM, PROMPTS, seed=0, run=run).module is not None  # nothing is left to do
    again = train_adapter(LM, PCA, PROMPTS, config, run, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_a_later_phase_goes_on_from_the_weights_with_its_own_loss(tmp_path) -> None:
    seen: list[int] = []

    def terms(module, rows, batch, step):
        seen.extend(batch.prompt_B.tolist())
        small = 1e-3 * sum(p.square().sum() for p in module.parameters())
        return {"recon": reconstruction_loss(module, rows, batch), "small": small}

    first = fitted()
    before = [p.clone() for p in first.module.parameters()]
    config = replace(QUICK, epochs=1)
    run = RunDir(tmp_path)
    later = train_adapter(LM, PCA, PROMPTS, config, run, seed=1, module=first.module, loss_terms=terms)
    assert sorted(seen) == list(range(len(PROMPTS)))
    assert any(not torch.equal(a, b) for a, b in zip(before, later.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, first.module.parameters(), strict=True))


# --- norms --------------------------------------------------------------------------------------------------------


def test_stored_norms_are_the_rows_own_and_are_paid_for() -> None:
    plain, stored = Adapter(PCA, AdapterConfig(), new_adapter(4, 16, AdapterConfig(), seed=0)), None
    stored = replace(plain, config=AdapterConfig(norms="stored"))
    ids_T = PROMPTS[0]
    made_TD = stored.inject(LM, sent := stored.compress(LM, ids_T)).rows_MD
    torch.testing.assert_close(made_TD.norm(dim=1), LM.table_VD[ids_T].norm(dim=1))
    assert stored.bits(sent) == plain.bits(plain.compress(LM, ids_T)) + 32 * len(ids_T)
    assert set(sent.tensors) == {LATENT, "norm"}


class OracleNorms:
    """The record's receiver: it rescales to the norm of the source's rows, which were never sent."""

    def __init__(self, inner: Adapter) -> None:
        self.inner, self.name = inner, "oracle"

    def compress(self, lm, ids_T) -> Compressed:
        self.norm_T = rows_of(lm, ids_T).norm(dim=1)
        return self.inner.compress(lm, ids_T)

    def inject(self, lm, compressed) -> Injected:
        row_TD = self.inner.inject(lm, compressed).rows_MD
        return Injected(row_TD * (self.norm_T / row_TD.norm(dim=1))[:, None])


def test_a_receiver_that_peeks_at_norms_is_caught() -> None:
    adapter = fitted()
    first_T, second_T = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    assert travels_alone(adapter, LM, first_T, second_T)
    assert travels_alone(Adapter(PCA, AdapterConfig(norms="stored"), adapter.module), LM, first_T, second_T)
    assert not travels_alone(OracleNorms(adapter), LM, first_T, second_T)


def test_rows_of_one_latent_are_one_row_unless_something_else_is_sent() -> None:
    """Rows that differ outside of the kept directions: no honest receiver can give them their own norms."""
    outside_D = torch.linalg.qr(PCA.projection.basis_Dd, mode="complete")[0][:, -1].float()
    table_VD = torch.stack((LM.table_VD[0], LM.table_VD[0] + outside_D))
    lm, ids_T = TableOnly(table_VD), torch.tensor([0, 1])
    adapter = fitted()
    plain_TD = adapter.inject(lm, adapter.compress(lm, ids_T)).rows_MD
    torch.testing.assert_close(plain_TD[0], plain_TD[1])
    stored = replace(adapter, config=replace(QUICK, norms="stored"))
    made_TD = stored.inject(lm, stored.compress(lm, ids_T)).rows_MD
    torch.testing.assert_close(made_TD.norm(dim=1), table_VD.norm(dim=1))
    assert float(table_VD[1].norm() / table_VD[0].norm()) > 1.5


def test_a_row_of_zeros_can_be_rescaled() -> None:
    made = made_rows(torch.nn.Linear(2, 3), torch.zeros(1, 2), torch.ones(1))
    assert torch.isfinite(made).all()
    assert torch.isfinite(made_rows(torch.nn.Identity(), torch.zeros(1, 2), torch.ones(1))).all()


# --- files, wrapping, bad input -----------------------------------------------------------------------------------


def test_a_file_holds_all_of_it_and_quantised_as_well(tmp_path) -> None:
    adapter = fitted(replace(QUICK, norms="stored"))
    for made_of in (adapter, Quantised(adapter, 4)):
        made_of.save(tmp_path / "it.safetensors")
        again = load_compressor(tmp_path / "it.safetensors")
        rows = [c.inject(LM, c.compress(LM, PROMPTS[0])).rows_MD for c in (made_of, again)]
        assert torch.equal(*rows)
        assert again.name == made_of.name


def test_bad_settings_are_one_line() -> None:
    for name, value in (("norms", "oracle"), ("start", "random"), ("epochs", 0), ("batch", 0)):
        with pytest.raises(ValueError, match=rf"{name}=.*; allowed"):
            AdapterConfig(**{name: value})
    with pytest.raises(ValueError, match="is not fitted"):
        Adapter(PCA).inject(LM, PCA.compress(LM, PROMPTS[0]))
    with pytest.raises(ValueError, match="not empty"):
        training_rows(LM, PCA, [torch.tensor([1]), torch.tensor([], dtype=torch.int64)])
    assert AdapterConfig().fit_config(10_000).steps == 469  # three epochs in batches of 64


# --- diagnostics --------------------------------------------------------------------------------------------------


def test_the_keys_are_those_of_the_plan() -> None:
    plan = "recon_mse recon_cosine_sim recon_rel_error lr compression_ratio quick_f1 f1 em memory"
    assert list(DIAGNOSTIC_KEYS) == plan.split()


def test_a_diary_line_has_every_key_and_later_lines_are_made_again(tmp_path) -> None:
    path = tmp_path / "deep" / "diagnostics.jsonl"
    for step in (10, 20, 30, 20):
        append_diagnostics(path, step, step / 10, {"recon_mse": 1.0 / step, "memory": peak_memory()})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert set(lines[0]) == {"step", "epoch", *DIAGNOSTIC_KEYS}
    assert lines[0]["quick_f1"] is None
    assert lines[0]["memory"] > 1e7
    complete_diagnostics(path, {"f1": 50.0, "em": 25.0})
    assert read_diagnostics(path) == [lines[0], {**lines[1], "f1": 50.0, "em": 25.0}]


def test_diagnostics_refuse_what_they_cannot_mean(tmp_path) -> None:
    path = tmp_path / "diagnostics.jsonl"
    with pytest.raises(ValueError, match="know no 'loss'"):
        append_diagnostics(path, 1, 1, {"loss": 1.0})
    with pytest.raises(ValueError, match="f1=nan is not finite"):
        append_diagnostics(path, 1, 1, {"f1": float("nan")})
    with pytest.raises(ValueError, match="has no line to complete"):
        complete_diagnostics(path, {"f1": 1.0})
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        read_diagnostics(path)


def test_reconstruction_values_are_means_over_prompts() -> None:
    values = reconstruction_values(PCA, LM, PROMPTS)
    lost = [PCA.inject(LM, PCA.compress(LM, ids_T)).rows_MD - LM.table_VD[ids_T] for ids_T in PROMPTS]
    assert values["recon_mse"] == pytest.approx(np.mean([float(off.square().mean()) for off in lost]), rel=1e-5)
    assert 0.9 < values["recon_cosine_sim"] < 1
