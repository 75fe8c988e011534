"""Hearing while writing: steps with a cache give what reading everything anew gives."""

from typing import Any

import pytest
import torch
from fusion_worlds import CASES, awake, clips, logits, prompts
from tiny_models import tiny_model

from inscape.nn.audio_tokens import AudioTokens
from inscape.nn.fusion import KINDS


def longer(given: dict[str, torch.Tensor], ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
    """The prompts with ids behind them."""
    mask_BT = torch.cat([given["attention_mask"], torch.ones_like(ids_BT)], 1)
    both_BT = torch.cat([given["input_ids"], ids_BT], 1)
    return {"input_ids": both_BT, "attention_mask": mask_BT, "position_ids": (mask_BT.cumsum(1) - 1).clamp_min(0)}


@pytest.mark.parametrize(("kind", "architecture"), CASES)
@torch.no_grad()
def test_steps_with_a_cache_are_one_reading_of_all(kind: str, architecture: str):
    model, given, audio = tiny_model(architecture), prompts(), clips()
    fusion = awake(kind, model)
    said_BT = torch.tensor([[4, 9, 30], [7, 7, 7], [50, 2, 11]])
    with fusion.attached(model, audio):
        wanted = logits(model, longer(given, said_BT))
    with fusion.attached(model, audio):
        out = model(**given, use_cache=True)
        found = [out.logits]
        for step in range(3):
            whole = longer(given, said_BT[:, : step + 1])
            last = {name: value[:, -1:] if name != "attention_mask" else value for name, value in whole.items()}
            found.append(model(**last, past_key_values=out.past_key_values, use_cache=True).logits)
    there_BT1 = longer(given, said_BT)["attention_mask"][..., None]
    torch.testing.assert_close(torch.cat(found, 1) * there_BT1, wanted, atol=2e-4, rtol=1e-3)


def written_anew(model: Any, given: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    """Greedy, reading everything for each id."""
    said_BT = given["input_ids"][:, :0]
    for _ in range(count):
        ids_B1 = model(**longer(given, said_BT), use_cache=False).logits[:, -1:].argmax(-1)
        said_BT = torch.cat([said_BT, ids_B1], 1)
    return said_BT


@pytest.mark.parametrize(("kind", "architecture"), [(k, "llama") for k in KINDS] + [("prefix", "gpt2")])
@torch.no_grad()
def test_generate_writes_what_it_hears(kind: str, architecture: str):
    model, given, audio = tiny_model(architecture), prompts(), clips()
    fusion = awake(kind, model)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    fed = {name: given[name] for name in ("input_ids", "attention_mask")}
    deaf = model.generate(**fed, **options)[:, 7:]
    with fusion.attached(model, audio):
        wanted = written_anew(model, given, 5)
        assert torch.equal(model.generate(**fed, **options)[:, 7:], wanted)
    assert not torch.equal(wanted, deaf)
    with fusion.attached(model, AudioTokens(audio.tokens_BKD, torch.zeros_like(audio.mask_BK))):
        assert torch.equal(model.generate(**fed, **options)[:, 7:], deaf)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_beam_search_moves_both_caches(kind: str):
    model, given, audio = tiny_model("llama"), prompts(), clips()
    fusion = awake(kind, model)
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 3, "eos_token_id": None, "pad_token_id": 0}
    fed = {name: given[name] for name in ("input_ids", "attention_mask")}
    with fusion.attached(model, AudioTokens(*(part.repeat_interleave(3, 0) for part in audio))):
        wanted = model.generate(**fed, **options, use_cache=False)
        assert torch.equal(model.generate(**fed, **options), wanted)
    with fusion.attached(model, audio), pytest.raises(ValueError, match="3 clips are attached and the batch has 9"):
        model.generate(**fed, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [True, False])
@torch.no_grad()
def test_prompts_that_are_done_leave_the_batch(kind: str, own: bool):
    model, given, audio = tiny_model("llama"), prompts(), clips(3 if own else 1)
    fusion = awake(kind, model)
    kept_A, ids_B1 = torch.tensor([2, 0]), torch.tensor([[5], [6], [7]])
    with fusion.attached(model, audio) as attached:
        cache = model(**given, use_cache=True).past_key_values
        whole = longer(given, ids_B1)
        wanted = logits(model, whole)[kept_A, -1]
        cache.batch_select_indices(kept_A)
        attached.only(kept_A)
        last = {name: whole[name][kept_A, -1:] for name in ("input_ids", "position_ids")}
        found = model(**last, attention_mask=whole["attention_mask"][kept_A], past_key_values=cache).logits[:, 0]
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3)


# --- prefix -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "llava"])
@torch.no_grad()
def test_at_gate_1_prefix_is_plain_prefix_tuning(architecture: str):
    model, given, audio = tiny_model(architecture), prompts(1), clips(1)
    fusion = awake("prefix", model)
    for gate, value in ((1.0, 1.0), (3.0, 1.0), (0.25, 0.25), (-2.0, -1.0)):
        torch.nn.init.constant_(fusion.gate, gate)  # type: ignore[arg-type]
        with fusion.attached(model, audio):
            found = model(**given).logits
        rows_BTD = torch.cat([audio.tokens_BKD, model.get_input_embeddings()(given["input_ids"])], 1)
        plain, without = model(inputs_embeds=rows_BTD).logits[:, 5:], model(**given).logits
        torch.testing.assert_close(found, without + value * (plain - without), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tokens_that_are_not_there_take_no_position():
    model, audio, ids_BT = tiny_model("gpt2"), clips(1), prompts(1)["input_ids"]  # learned positions, none named
    fusion = awake("prefix", model)
    with_holes = AudioTokens(audio.tokens_BKD, torch.tensor([[False, True, False, True, True]]))
    with fusion.attached(model, with_holes):
        found = model(input_ids=ids_BT).logits
    with fusion.attached(model, AudioTokens(audio.tokens_BKD[:, [1, 3, 4]], torch.ones(1, 3, dtype=torch.bool))):
        torch.testing.assert_close(found, model(input_ids=ids_BT).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_prefix_reads_once_while_its_gate_is_shut_and_nothing_is_learned():
    model, given = tiny_model("llama"), prompts()
    fusion = awake("prefix", model)
    calls: list[int] = []
    handle = model.model.layers[0].register_forward_pre_hook(lambda m, args: calls.append(args[0].shape[1]))
    with fusion.attached(model, clips()):
        model(**given)
        torch.nn.init.zeros_(fusion.gate)  # type: ignore[arg-type]
        model(**given)
        with torch.enable_grad():
            model(**given)
    handle.remove()
    assert calls == [7, 12, 7, 7, 12], "with gradients the gate has to learn, and is read for"


@torch.no_grad()
def test_prefix_refuses_what_it_cannot_follow():
    model, given = tiny_model("llama"), prompts()
    fusion = awake("prefix", model)
    deaf = model(**given, use_cache=True).past_key_values
    step = {"input_ids": given["input_ids"][:, :1]}
    with fusion.attached(model, clips()):
        with pytest.raises(ValueError, match="the cache holds 7 positions that were not all read with this audio"):
            model(**step, past_key_values=deaf)
        heard = model(**given, use_cache=True).past_key_values
        fusion.strength = 0.0
        model(**step, past_key_values=heard)
        fusion.strength = 1.0
        with pytest.raises(ValueError, match="the cache holds 8 positions that were not all read"):
            model(**step, past_key_values=heard)
        with pytest.raises(ValueError, match="prefix needs an attention mask of shape"):
            model(input_ids=given["input_ids"], attention_mask=torch.zeros(3, 1, 7, 7))
    small = tiny_model("gpt2")
    with (
        awake("prefix", small).attached(small, clips()),
        pytest.raises(ValueError, match="audio and text take 65 positions and the model's window is 64"),
    ):
        small(input_ids=torch.ones(3, 60, dtype=torch.long))
