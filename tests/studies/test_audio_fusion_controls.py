"""Controls of the trainings that are compared: one caption for all is not hearing, a frozen model stays as it was, and
memory that runs out on a CPU is met as on a GPU.
"""

from collections.abc import Sequence

import pytest
from test_audio_fusion import outcomes, ran, value

from inscape.core.gate import Outcome
from inscape.studies.audio_fusion import training, trial
from inscape.studies.audio_fusion.listener import Listener
from inscape.studies.audio_fusion.sounds import Sounds
from inscape.studies.audio_fusion.training import fit_within_memory


def says_one_caption(bench, listener: Listener | None, sounds: Sounds, order: Sequence[int] | None = None) -> list[str]:
    """What a model without ears learns: one caption for all."""
    return ["it" if listener is None else sounds.captions[0][0]] * sounds.size


def says_what_it_hears(bench, listener: Listener | None, sounds: Sounds, order: Sequence[int] | None = None):
    heard = range(sounds.size) if order is None else order
    return ["it" if listener is None else sounds.captions[i][0] for i in heard]


@pytest.mark.parametrize(("says", "outcome"), [(says_one_caption, Outcome.INVALID), (says_what_it_hears, Outcome.PASS)])
def test_a_gain_without_ears_is_no_gain_in_retention(tmp_path, monkeypatch, says, outcome: Outcome) -> None:
    monkeypatch.setattr(trial, "captions_by", says)
    run = ran(tmp_path, "identity", "connectivity", "retention", overrides=("data.held_out=40",))["retention"]
    found = outcomes(run)
    assert found["gain_none"] is Outcome.PASS, "it is passed without ears"
    for kind in ("none", "full"):
        assert found[f"own_over_shuffled_{kind}"] is outcome
        assert (value(run, f"shuffled_cider_{kind}") < value(run, f"cider_{kind}")) == (outcome is Outcome.PASS)


@pytest.mark.parametrize("code", ["retention", "fixes"])
def test_a_model_that_a_training_changed_is_noticed(tmp_path, monkeypatch, code: str) -> None:
    ran(tmp_path, "identity", "connectivity")
    opened = trial.open_language
    models = []
    monkeypatch.setattr(trial, "open_language", lambda *given: models.append(opened(*given)) or models[-1])
    fit = training.fit

    def spoiling(*given, **named):
        found = fit(*given, **named)
        models[-1].model.get_output_embeddings().weight.data[0, 0] += 1e-6
        return found

    assert outcomes(ran(tmp_path, code)[code])["model_changed"] is Outcome.PASS
    monkeypatch.setattr(training, "fit", spoiling)
    assert outcomes(ran(tmp_path, code)[code])["model_changed"] is Outcome.INVALID


def test_every_training_says_what_is_trained_and_what_is_not(tmp_path) -> None:
    run = ran(tmp_path, "identity", "connectivity")["connectivity"]
    parts = run.read_json("training/audit.json")
    assert set(parts) == {"language_model", "projector", "fusion"}
    assert set(parts["language_model"]) == {"pretrained-frozen"}
    assert set(parts["projector"]) == set(parts["fusion"]) == {"trained"}
    assert all(count > 0 for part in parts.values() for count in part.values())


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000000 bytes.",
    ],
)
def test_memory_that_runs_out_on_a_cpu_halves_the_batch_too(capsys, words: str) -> None:
    tried = []

    def attempt(batch: int, accumulate: int):
        tried.append((batch, accumulate))
        if batch > 2:
            raise RuntimeError(words)
        return "done"

    assert fit_within_memory(attempt, 4, 1) == "done"
    assert tried == [(4, 1), (2, 2)]
    assert "out of memory: 2 clips at once" in capsys.readouterr().err
    with pytest.raises(ValueError, match="cannot be halved"):
        fit_within_memory(lambda batch, accumulate: attempt(9, 1), 1, 1)


def test_another_fault_is_not_taken_for_a_lack_of_memory() -> None:
    def attempt(batch: int, accumulate: int):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit_within_memory(attempt, 8, 1)
