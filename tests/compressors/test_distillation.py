"""The terms of distillation against plain loops over single prompts, and batches that are functions of the step."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_recall import examples, random_model
from torch import Tensor, nn

from inscape.compressors import teaching_examples
from inscape.compressors.distillation import (
    DistillationConfig,
    Objective,
    Teacher,
    distil,
    distillation_terms,
)
from inscape.compressors.receiving import first_layers, states_of
from inscape.compressors.teaching_examples import (
    Example,
    answered_by_teacher,
    batch_members,
    batch_of,
    questions_together,
)
from inscape.core.rundir import RunDir
from inscape.pretrained.language_model import LanguageModel
from inscape.train import FitConfig

UNEVEN = [
    Example((18,), (1, 2, 3, 4, 5, 6), (16, 7), (8, 17)),
    Example((18, 0), (9, 10, 11, 12), (16,), (3,)),
    Example((), (5, 5, 6, 13, 2), (1, 2, 16), (10, 11, 17)),
]
ALL = Objective(answer_kl=1.0, question_kl=0.5, answer_ce=2.0, reconstruction=3.0)


class Halved(nn.Module):
    """Every second row of the table, turned a little: a stand-in for an encoder."""

    def __init__(self, keep_all: bool = False) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.zeros(32) if keep_all else torch.full((32,), 0.3))
        self.stride = 1 if keep_all else 2

    def forward(self, lm: LanguageModel, contexts: list[Tensor]) -> list[Tensor]:
        return [lm.table_VD[ids_T[:: self.stride]] + self.turn for ids_T in contexts]


def student_of(encoder: nn.Module, lm: LanguageModel) -> SimpleNamespace:
    return SimpleNamespace(encoder=encoder, begin=nn.Embedding.from_pretrained(lm.table_VD[[0]] * 2))


def one_by_one(lm: LanguageModel, student: SimpleNamespace, prompts: list[Example]) -> dict[str, Tensor]:
    """The terms by their definition: a prompt at a time, all logits, nothing padded."""
    answer, question, entropy, read = [], [], [], []
    for example in prompts:
        (memory_MD,) = student.encoder(lm, [torch.tensor(example.context)])
        text = lm.model(input_ids=torch.tensor([[i for span in example for i in span]])).logits[0].log_softmax(-1)
        rows = [lm.rows(example.prefix), memory_MD, lm.rows(example.suffix + example.answer)]
        told = lm.model(inputs_embeds=torch.cat(rows)[None]).logits[0].log_softmax(-1)
        asked = len(example.suffix) - 1
        tail = len(example.suffix) + len(example.answer)
        kl = (text[-tail:].exp() * (text[-tail:] - told[-tail:])).sum(-1)
        question.append(kl[:asked])
        answer.append(kl[asked:])
        entropy.append(-told[-tail:][asked:-1].gather(1, torch.tensor(example.answer)[:, None])[:, 0])
        rows = [memory_MD, student.begin.weight, lm.rows(example.context[:-1])]
        said = lm.model(inputs_embeds=torch.cat(rows)[None]).logits[0, len(memory_MD) :].log_softmax(-1)
        read.append(-said.gather(1, torch.tensor(example.context)[:, None])[:, 0])
    terms = {"answer_kl": answer, "question_kl": question, "answer_ce": entropy, "reconstruction": read}
    return {name: torch.cat(values).mean() for name, values in terms.items()}


def test_terms_are_those_of_single_prompts():
    lm = random_model()
    student = student_of(Halved(), lm)
    found = distillation_terms(lm, student, batch_of(UNEVEN), ALL)
    expected = one_by_one(lm, student, UNEVEN)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value * getattr(ALL, name), atol=1e-5, rtol=1e-5)


def test_without_the_questions_terms_its_positions_are_not_looked_at():
    lm = random_model()
    student = student_of(Halved(), lm)
    found = distillation_terms(lm, student, batch_of(UNEVEN), Objective(question_kl=0, answer_ce=1))
    expected = one_by_one(lm, student, UNEVEN)
    assert list(found) == ["answer_kl", "answer_ce"]
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)


def test_a_context_is_encoded_once_for_all_its_questions():
    lm = random_model()
    student = student_of(Halved(), lm)
    shared = [*UNEVEN, UNEVEN[0]._replace(suffix=(16, 9, 2)), UNEVEN[2]._replace(answer=(11,))]
    assert questions_together(shared, 4) == [[0, 3], [1], [2, 4]]
    assert questions_together([UNEVEN[0]] * 5, 2) == [[0, 1], [2, 3], [4]]
    encoded: list[int] = []
    student.encoder.register_forward_pre_hook(lambda module, given: encoded.append(len(given[1])))
    found = distillation_terms(lm, student, batch_of(shared), ALL)
    assert encoded == [3]
    expected = one_by_one(lm, student, shared)
    for name in ("answer_kl", "question_kl", "answer_ce"):
        torch.testing.assert_close(found[name], expected[name] * getattr(ALL, name), atol=1e-5, rtol=1e-5)
    each_once = one_by_one(lm, student, UNEVEN)["reconstruction"]
    torch.testing.assert_close(found["reconstruction"], 3 * each_once, atol=1e-5, rtol=1e-5)


def test_what_the_teacher_said_is_kept_and_is_what_it_would_say():
    lm = random_model()
    student, read = student_of(Halved(), lm), []
    teacher = Teacher(lm, UNEVEN, [[2, 0]], ALL)
    handle = lm.model.base_model.register_forward_pre_hook(
        lambda module, given, named: read.append(len(named["inputs_embeds"])), with_kwargs=True
    )
    taught = teacher.states([0, 1, 2])
    assert read == [2, 1], "in groups that never change; an example in no group is one of its own"
    assert teacher.states([1]) == taught[1:2]
    handle.remove()
    assert read == [2, 1]
    found = distillation_terms(lm, student, batch_of(UNEVEN), ALL, taught)
    for name, value in distillation_terms(lm, student, batch_of(UNEVEN), ALL).items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)


def test_the_first_layers_are_the_model_cut_short():
    lm, ids_T = random_model(), torch.tensor([1, 2, 3])
    with torch.no_grad():
        hidden = lm.model(input_ids=ids_T[None], output_hidden_states=True).hidden_states
        expected = lm.model.base_model.norm(hidden[1])
        torch.testing.assert_close(states_of(lm, [lm.rows([1, 2, 3])], depth=1), expected)
        torch.testing.assert_close(states_of(lm, [lm.rows([1, 2, 3])], depth=2), hidden[2])
    assert len(lm.model.base_model.layers) == 2
    with pytest.raises(ValueError, match="allowed: 1 to 2"), first_layers(lm, 3):
        pass


def test_the_context_itself_has_nothing_to_learn():
    lm = random_model()
    found = distillation_terms(lm, student_of(Halved(keep_all=True), lm), batch_of(UNEVEN), Objective())
    assert all(abs(value.item()) < 1e-6 for value in found.values())


def test_gradients_reach_the_encoder_and_nothing_else():
    lm = random_model()
    encoder = Halved()
    sum(distillation_terms(lm, student_of(encoder, lm), batch_of(UNEVEN), ALL).values()).backward()  # type: ignore[union-attr]
    assert encoder.turn.grad is not None
    assert encoder.turn.grad.norm() > 0
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_positions_that_do_not_count_up_are_one_sequence():
    # transformers takes them for several sequences in one row unless a mask is given; then memory would be blind.
    lm, eager = random_model(), random_model(attention="eager")
    rows_ND, position_N = lm.rows([1, 2, 3, 4, 5, 6]), torch.tensor([0, 1, 1, 2, 3, 3])
    blocked_NN = torch.full((6, 6), float("-inf")).triu(1)
    with torch.no_grad():
        expected = eager.model.base_model(
            inputs_embeds=rows_ND[None], position_ids=position_N[None], attention_mask=blocked_NN[None, None]
        ).last_hidden_state
        found = states_of(lm, [rows_ND, rows_ND[:4]], [position_N, position_N[:4]])
        packed = {"position_ids": position_N[None], "use_cache": False}
        trap = lm.model.base_model(inputs_embeds=rows_ND[None], **packed).last_hidden_state
    torch.testing.assert_close(found[:1], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1, :4], expected[0, :4], atol=1e-5, rtol=1e-5)
    assert (trap - expected).abs().max() > 0.1


@settings(deadline=None, max_examples=50)
@given(count=st.integers(4, 200), batch=st.integers(1, 4), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_an_epoch_meets_each_example_at_most_once(count: int, batch: int, seed: int, epoch: int):
    lengths = np.random.default_rng(seed).integers(1, 50, count)
    steps = count // batch
    met = [batch_members(lengths, batch, seed, epoch * steps + step) for step in range(steps)]
    assert {len(members) for members in met} == {batch}
    every = np.concatenate(met)
    assert len(set(every.tolist())) == len(every)
    again = batch_members(lengths, batch, seed, epoch * steps)
    assert again.tolist() == met[0].tolist()


def test_neighbours_are_of_one_length_and_ranks_share():
    lengths = np.random.default_rng(0).integers(60, 120, 512)
    met = [batch_members(lengths, 8, 3, step) for step in range(64)]
    padding = np.mean([1 - lengths[members].mean() / lengths[members].max() for members in met])
    assert padding < 0.05, "drawn at random it is a quarter"
    firsts = [lengths[members].mean() for members in met]
    assert np.abs(np.diff(firsts)).mean() > 10, "short and long batches take turns"
    parts = [batch_members(lengths, 8, 3, 5, rank, 2) for rank in range(2)]
    assert sorted(np.concatenate(parts).tolist()) == sorted(met[5].tolist())
    assert met[0].tolist() != batch_members(lengths, 8, 4, 0).tolist()


def test_the_teacher_answers_for_itself():
    lm = random_model()
    answered = answered_by_teacher(lm, UNEVEN, max_new_tokens=3, stop_ids=[17])
    for before, after in zip(UNEVEN, answered, strict=True):
        assert after[:3] == before[:3]
        ids = torch.tensor([before.prefix + before.context + before.suffix])
        told = lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        assert list(after.answer) == told[0, ids.shape[1] :].tolist()


def test_the_teacher_ends_where_the_line_ends():
    lm = random_model()
    whole = answered_by_teacher(lm, UNEVEN, max_new_tokens=6, stop_ids=())
    ended = answered_by_teacher(lm, UNEVEN, max_new_tokens=6, stop_ids=(), until=lambda ids: len(ids) == 2)
    assert [len(example.answer) for example in whole] == [6] * len(UNEVEN)
    assert [example.answer for example in ended] == [example.answer[:2] for example in whole]


def test_what_the_teacher_said_is_not_asked_again(tmp_path, monkeypatch):
    lm, told = random_model(), {"max_new_tokens": 3, "stop_ids": [17]}
    whole = answered_by_teacher(lm, UNEVEN, **told)
    generate, asked = teaching_examples.generate_rows, []

    def counted(lm, rows, **named):
        if len(asked) == stop_after:
            raise KeyboardInterrupt
        asked.append(len(rows))
        return generate(lm, rows, **named)

    monkeypatch.setattr(teaching_examples, "generate_rows", counted)
    monkeypatch.setattr(teaching_examples, "TOGETHER", 2)
    run, stop_after = RunDir(tmp_path), 1
    with pytest.raises(KeyboardInterrupt):
        answered_by_teacher(lm, UNEVEN, run=run, **told)
    stop_after = 99
    assert answered_by_teacher(lm, UNEVEN, run=run, **told) == whole
    assert asked == [2, 1], "the first two were kept"
    assert answered_by_teacher(lm, UNEVEN, run=run, **told) == whole
    assert asked == [2, 1], "all of them"
    for other, more in ((UNEVEN[::-1], told), (UNEVEN, told | {"max_new_tokens": 2})):
        asked.clear()
        answered_by_teacher(lm, other, run=run, **more)
        assert asked == [2, 1], "other examples, or other limits, are asked anew"
    asked.clear()
    answered_by_teacher(lm._replace(name="another"), UNEVEN, run=run, **told)
    assert asked == [2, 1]


@pytest.mark.parametrize(
    ("prompts", "objective", "line"),
    [
        (UNEVEN, Objective(), "3 contexts do not fill a batch of 4"),
        ([*UNEVEN, Example((), (1, 2))], Objective(), "no suffix"),
        ([*UNEVEN, Example((), ())], Objective(0, 0, 0, 1), "no context"),
    ],
)
def test_what_cannot_teach_is_one_line(prompts: list[Example], objective: Objective, line: str):
    config = DistillationConfig(batch=4, objective=objective, fit=FitConfig(steps=1))
    with pytest.raises(ValueError, match=line) as caught:
        distil(random_model(), Halved(), prompts, config, None, seed=0)
    assert "\n" not in str(caught.value)


def test_impossible_settings_are_one_line():
    with pytest.raises(ValueError, match="teaches nothing"):
        Objective(0, 0, 0, 0)
    with pytest.raises(ValueError, match="teaches nothing"):
        Objective(answer_kl=-1)
    with pytest.raises(ValueError, match="batch=0"):
        DistillationConfig(batch=0)
    lm = random_model()
    lm.model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        distil(lm, Halved(), examples(8, 0), DistillationConfig(fit=FitConfig(steps=1)), None, seed=0)
