"""Fusion is the model itself until it is not: exact identities, for every kind and architecture; then it hears."""

import copy
from typing import Any

import pytest
import torch
from fusion_worlds import CASES, TOY, awake, clips, counted, logits, made, prompts
from tiny_models import UNKNOWN, tiny_model
from torch import nn

from inscape.nn.audio_projectors import ProjectorConfig, make_projector
from inscape.nn.audio_tokens import AudioTokens
from inscape.nn.fusion import KINDS, Fusion, FusionConfig
from inscape.nn.fusion_blocks import projections_of
from inscape.nn.parameter_audit import audit, check, gradient_reach

LAYERED = [kind for kind in KINDS if kind != "prefix"]


# --- not hearing is exact -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_what_was_just_made_is_the_model_to_the_last_bit(kind: str, architecture: str):
    model, given = tiny_model(architecture), prompts()
    fusion = made(kind, model, feed_forward=True)
    before = logits(model, given)
    with fusion.attached(model, clips()):
        assert torch.equal(logits(model, given), before)
        with torch.no_grad():
            assert torch.equal(logits(model, given), before)


@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_after_training_it_hears_and_strength_0_and_silence_are_still_exact(kind: str, architecture: str):
    model, given, audio = tiny_model(architecture), prompts(), clips()
    fusion = awake(kind, model, feed_forward=True)
    before = logits(model, given)
    with torch.no_grad(), fusion.attached(model, audio):
        heard = logits(model, given)
        fusion.strength = 0.0
        assert torch.equal(logits(model, given), before)
    fusion.strength = 1.0
    assert (heard - before).abs().amax((1, 2)).min() > 1e-3, "every clip is heard"
    with torch.no_grad(), fusion.attached(model, AudioTokens(audio.tokens_BKD[[1, 2, 0]], audio.mask_BK[[1, 2, 0]])):
        assert (logits(model, given) - heard).abs().amax((1, 2)).min() > 1e-3, "which clip it is matters"
    silent = audio.mask_BK.clone()
    silent[1] = False
    with torch.no_grad(), fusion.attached(model, AudioTokens(audio.tokens_BKD, silent)):
        found = logits(model, given)
    assert torch.equal(found[1], before[1]), "silence is not heard, and not as uniform attention either"
    torch.testing.assert_close(found[[0, 2]], heard[[0, 2]])
    assert torch.equal(logits(model, given), before), "outside the block the model is itself"


@pytest.mark.parametrize("kind", KINDS)
def test_gate_0_is_exact_whatever_the_other_weights_are(kind: str):
    model, given = tiny_model("llama"), prompts()
    fusion = awake(kind, model, feed_forward=True)
    for name, parameter in fusion.named_parameters():
        if "gate" in name:
            nn.init.zeros_(parameter)
    before = logits(model, given)
    with fusion.attached(model, clips()):
        assert torch.equal(logits(model, given), before)


@pytest.mark.parametrize("kind", KINDS)
def test_strength_0_computes_nothing(kind: str):
    model, given = tiny_model("llama"), prompts()
    fusion = awake(kind, model)
    fusion.strength = 0.0
    unreadable = AudioTokens(torch.full((3, 5, 32), float("nan")), torch.ones(3, 5, dtype=torch.bool))
    before = logits(model, given)
    with counted(model.model.layers[0].self_attn.k_proj) as calls, fusion.attached(model, unreadable):
        assert torch.equal(logits(model, given), before)
    assert calls == [7], "the text alone went through the layer, and once"


@pytest.mark.parametrize("kind", KINDS)
def test_what_absent_tokens_hold_is_not_heard_nor_how_many_there_are(kind: str):
    model, given, audio = tiny_model("llama"), prompts(), clips()
    fusion = awake(kind, model)
    spoilt = audio.tokens_BKD.masked_fill(~audio.mask_BK[..., None], float("nan"))
    with torch.no_grad():
        with fusion.attached(model, audio):
            heard = logits(model, given)
        with fusion.attached(model, AudioTokens(spoilt, audio.mask_BK)):
            assert torch.equal(logits(model, given), heard)
        short = AudioTokens(audio.tokens_BKD[2:, :2], audio.mask_BK[2:, :2])
        alone = {name: value[2:] for name, value in given.items()}
        with fusion.attached(model, short):
            torch.testing.assert_close(logits(model, alone)[0], heard[2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_clip_serves_all_rows(kind: str):
    model, given = tiny_model("llama"), prompts()
    one = clips(1)
    fusion = awake(kind, model)
    with torch.no_grad():
        with fusion.attached(model, AudioTokens(*(part.expand(3, *part.shape[1:]) for part in one))):
            wanted = logits(model, given)
        with fusion.attached(model, one):
            torch.testing.assert_close(logits(model, given), wanted)


# --- strength and warm-up -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_and_strength_multiply_the_gate(kind: str):
    model, given = tiny_model("llama"), prompts()
    fusion = awake(kind, model, layers=(2,), gate_warmup=8)
    assert [fusion.set_warmup(step) for step in (0, 2, 8, 100)] == [0.0, 0.25, 1.0, 1.0]
    added = []
    for step, strength in ((8, 0.5), (4, 1.0), (4, 2.0)):
        fusion.set_warmup(step)
        fusion.strength = strength
        with torch.no_grad(), fusion.attached(model, clips(), measure=True) as attached:
            logits(model, given)
        added.append(attached.measurements()[2])
    assert added[0] == added[1]
    assert added[2].gate == pytest.approx(2 * added[1].gate)
    assert added[2].added_rms == pytest.approx(2 * added[1].added_rms, rel=1e-5)
    assert made(kind, model).set_warmup(0) == 1.0, "without warm-up gates are open at once"


@pytest.mark.parametrize("kind", KINDS)
def test_with_gates_shut_the_model_has_no_hook_and_opening_them_brings_the_hooks(kind: str):
    model, given = tiny_model("llama"), prompts()
    fusion = awake(kind, model, gate_warmup=8)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    with torch.no_grad(), fusion.attached(model, clips()) as attached:
        wanted, open_hooks = logits(model, given), hooks()
        attached.only(torch.arange(3))
        for shut, opened in (((fusion.set_warmup, 0), (fusion.set_warmup, 8)), ((setattr, 0.0), (setattr, 1.0))):
            for (act, value), count in ((shut, 0), (opened, open_hooks)):
                act(*((fusion, "strength", value) if act is setattr else (value,)))
                assert hooks() == count
        assert torch.equal(logits(model, given), wanted), "as if it had never been shut"
        fusion.strength = 2.0
        assert hooks() == open_hooks > 0, "no hook comes twice"
        fusion.strength = 0.0
    fusion.strength = 1.0
    assert hooks() == 0, "outside the block nothing comes back"


@pytest.mark.parametrize("kind", KINDS)
def test_opened_where_nothing_is_learned_it_still_learns_where_something_is(kind: str):
    model, given, audio = tiny_model("llama"), prompts(), clips()
    fusion, tokens_BKD = awake(kind, model), audio.tokens_BKD.clone().requires_grad_()
    fusion.strength = 0.0
    with fusion.attached(model, AudioTokens(tokens_BKD, audio.mask_BK)):
        with torch.no_grad():
            fusion.strength = 1.0
            logits(model, given)
        logits(model, given).square().mean().backward()
    assert tokens_BKD.grad is not None
    assert tokens_BKD.grad.abs().sum() > 0
    assert not gradient_reach(fusion), "no parameter is missed"


def test_hooks_come_all_or_none(monkeypatch):
    model, given = tiny_model("llama"), prompts()
    fusion = awake("lora_cross_attention", model)
    fusion.strength, found = 0.0, []

    def fails_in_the_second_layer(*args: Any) -> Any:
        found.append(1)
        if len(found) == 2:
            raise MemoryError
        return projections_of(*args)

    with torch.no_grad(), fusion.attached(model, clips()):
        monkeypatch.setattr("inscape.nn.fusion.projections_of", fails_in_the_second_layer)
        before = logits(model, given)
        with pytest.raises(MemoryError):
            fusion.strength = 1.0
        assert torch.equal(logits(model, given), before), "not half a listener"
        fusion.strength = 1.0
        opened = logits(model, given)
    with torch.no_grad(), fusion.attached(model, clips()):
        assert torch.equal(logits(model, given), opened)


def test_a_copy_of_what_is_attached_is_attached_to_nothing():
    model, given = tiny_model("llama"), prompts()
    fusion = awake("gated_cross_attention", model)
    before = logits(model, given)
    with fusion.attached(model, clips()):
        other = copy.deepcopy(fusion)
        fusion.strength = 0.0
        other.strength = 2.0
        assert torch.equal(logits(model, given), before)


def test_the_seed_s_gate_is_clamped_and_comes_back():
    fusion = made("lora_cross_attention", tiny_model("llama"), residual_init=0.3, residual_max=0.5)
    block: Any = fusion.blocks["1"]
    for gate, value in ((0.3, 0.3), (0.9, 0.5), (-0.2, 0.0)):
        nn.init.constant_(block.gate, gate)
        assert block.gate_value().item() == pytest.approx(value, abs=1e-7)
        (slope,) = torch.autograd.grad(block.gate_value(), block.gate)
        assert slope == 1.0


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_a_projector_learns_through_the_frozen_model(kind: str, architecture: str):
    model, given = tiny_model(architecture), prompts()
    torch.manual_seed(4)
    projector = make_projector(ProjectorConfig(kind="qformer", tokens=3, bottleneck=8, heads=2), 6, 32)
    trained = nn.ModuleDict({"projector": projector, "fusion": made(kind, model, feed_forward=True)})
    check(audit(trained, pretrained={"language model": model}))
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.02)
    features_BTF, mask_BT = torch.randn(3, 9, 6), torch.ones(3, 9, dtype=torch.bool)
    start = {name: p.detach().clone() for name, p in trained.named_parameters()}
    losses = []
    for _ in range(8):
        with trained["fusion"].attached(model, projector(features_BTF, mask_BT)):  # type: ignore[operator]
            last_BV = model(**given).logits[:, -1]
        loss = nn.functional.cross_entropy(last_BV, torch.tensor([1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        assert gradient_reach(trained) == ()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    assert not [name for name, p in trained.named_parameters() if torch.equal(p, start[name])]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", LAYERED)
def test_gradient_checkpointing_gives_the_same_gradients(kind: str):
    from inscape.pretrained.tiny_language_model import tiny_language_model

    model, given = tiny_language_model().model.train(), prompts()
    fusion = awake(kind, model)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        tokens_BKD = clips().tokens_BKD.requires_grad_()
        fusion.zero_grad()
        with fusion.attached(model, AudioTokens(tokens_BKD, clips().mask_BK)):
            logits(model, {**given, "use_cache": False}).square().mean().backward()  # type: ignore[dict-item]
        found.append([tokens_BKD.grad, *(p.grad for p in fusion.parameters())])
    torch.testing.assert_close(found[1], found[0])
    assert found[0][0].abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind: str):
    from inscape.pretrained.tiny_language_model import tiny_language_model

    model, given, audio = tiny_model("llama"), prompts(), clips()
    fusion = awake(kind, model)
    with torch.no_grad():
        with fusion.attached(model, audio):
            wanted = logits(model, given)
        with torch.autocast("cpu", torch.bfloat16):
            with fusion.attached(model, audio):
                automatic = logits(model, given)
            before = logits(model, given)
            fusion.strength = 0.0
            with fusion.attached(model, audio):
                assert torch.equal(logits(model, given), before)
        fusion.strength = 1.0
        half = tiny_language_model().model.to(torch.bfloat16)
        with fusion.attached(half, audio):  # its weights are bfloat16, those of the fusion float32
            by_weights = logits(half, given)
    assert by_weights.dtype == torch.bfloat16
    for found in (automatic, by_weights):
        assert nn.functional.cosine_similarity(found.float().flatten(), wanted.flatten(), 0) > 0.99


# --- it lives as long as the block --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_model_is_kept_and_no_hook_stays_after_an_error(kind: str):
    model = tiny_model("llama")
    fusion = awake(kind, model)
    assert not {id(p) for p in fusion.parameters()} & {id(p) for p in model.parameters()}
    with pytest.raises(IndexError), fusion.attached(model, clips(), measure=True):
        model(input_ids=torch.full((3, 2), 10**6))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_it_fits_a_model_of_the_same_shape_wherever_its_layers_are():
    model, given = tiny_model("llama"), prompts()
    fusion = awake("gated_cross_attention", model)
    with torch.no_grad(), fusion.attached(model, clips()):
        wanted = model.model(**given).last_hidden_state
    with torch.no_grad(), fusion.attached(model.model, clips()):  # without its head: the path is another
        assert torch.equal(model.model(**given).last_hidden_state, wanted)


def test_parameter_counts():
    model = tiny_model("llama")
    block = made("lora_cross_attention", model).blocks["1"]
    rank, inner, values = 4, 32, 16  # two key heads of width 8
    assert sum(p.numel() for p in block.parameters()) == rank * ((32 + inner) + (32 + values) + (inner + 32)) + 1
    assert [tuple(p.shape) for p in made("zero_init_attention", model).blocks["1"].parameters()] == [(4,)]
    assert sum(p.numel() for p in made("prefix", model).parameters()) == 1


def test_at_the_seed_s_size_176_million_are_trained_and_not_380():
    import transformers as t

    text = t.LlamaConfig(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40)
    with torch.device("meta"):
        model = t.LlavaForConditionalGeneration(t.LlavaConfig(text_config=text))
        parts = make_projector(ProjectorConfig(), 512, 5120), Fusion(FusionConfig(layers=(8, 16, 24, 32)), model)
    projector, fusion = (sum(p.numel() for p in part.parameters()) for part in parts)
    of_query_and_value, of_out = 2 * 64 * (5120 + 5120), 64 * (5120 + 5120)
    assert of_query_and_value == 1_310_720
    assert fusion == 4 * (of_query_and_value + of_out + 1)
    assert projector + fusion == 176_326_660


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", UNKNOWN)
@pytest.mark.parametrize("kind", ["lora_cross_attention", "zero_init_attention"])
def test_models_whose_queries_cannot_be_told_are_refused_with_what_works(kind: str, architecture: str):
    with pytest.raises(
        ValueError, match=f"{kind} needs q_proj.* has neither: use prefix or gated_cross_attention"
    ) as caught:
        made(kind, tiny_model(architecture))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kind": "adapter"}, "kind='adapter' is no fusion; allowed: prefix, gated"),
        ({"layers": ()}, "lora_cross_attention needs layers"),
        ({"layers": (1, 1)}, r"layers=\(1, 1\) are not possible"),
        ({"layers": (0,)}, r"layers=\(0,\) are not possible"),
        ({"layers": (1, 3)}, r"layers=\(1, 3\): LlamaForCausalLM has layers 1 to 2"),
        ({"rank": 0}, "rank=0 is out of range"),
        ({"heads": 0}, "heads=0 is out of range"),
        ({"head_width": 0}, "head_width=0 is out of range"),
        ({"alpha": 0.0}, "alpha=0.0 is out of range"),
        ({"residual_init": 1.5}, "residual_init=1.5 residual_max=1.0 are out of range"),
        ({"gate_warmup": -1}, "gate_warmup=-1 is out of range"),
    ],
)
def test_mistakes_in_a_config_are_one_line(changes: dict[str, Any], line: str):
    with pytest.raises(ValueError, match=line) as caught:
        made(**{"kind": "lora_cross_attention", "model": tiny_model("llama"), **changes})
    assert "\n" not in str(caught.value)


def attach(fusion: Fusion, model: Any, audio: AudioTokens) -> None:
    with fusion.attached(model, audio):
        logits(model, prompts())


@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_in_what_is_attached_are_one_line(kind: str):
    model, audio = tiny_model("llama"), clips()
    fusion = awake(kind, model)
    mistakes: list[tuple[Any, AudioTokens, str]] = [
        (model, clips(2), "2 clips are attached and the batch has 3 rows"),
        (model, AudioTokens(audio.tokens_BKD[..., :4], audio.mask_BK), r"wanted \(clips, 1 or more, 32\)"),
        (model, AudioTokens(audio.tokens_BKD, audio.mask_BK.float()), "the mask of the audio tokens is torch.float32"),
        (model, AudioTokens(audio.tokens_BKD, audio.mask_BK[:2]), r"wanted: torch.bool of shape \(3, 5\)"),
        (tiny_model("qwen3"), audio, r"of another model: .* are \(2, 32, 4, 2, 16\) here and were \(2, 32, 4, 2, 8\)"),
    ]
    for given, tokens, line in mistakes:
        with pytest.raises(ValueError, match=line) as caught:
            attach(fusion, given, tokens)
        assert "\n" not in str(caught.value)
    with (
        fusion.attached(model, audio) as attached,
        pytest.raises(ValueError, match="nothing was measured"),
    ):
        attached.measurements()


def test_the_defaults_are_the_seed_s_phase_1():
    config = FusionConfig(layers=(8, 16, 24, 32))
    assert (config.kind, config.rank, config.alpha) == ("lora_cross_attention", 64, 16.0)
    assert (config.residual_init, config.residual_max, config.gate_warmup) == (0.3, 1.0, 0)
    assert TOY.layers == (1, 2)
