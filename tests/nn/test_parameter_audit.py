"""The audit against planted defects: the one that peft makes, and a parameter that the loss does not reach."""

import pytest
import torch
from torch import nn

from inscape.nn.lora import LowRankMap
from inscape.nn.parameter_audit import audit, check, gradient_reach


def run() -> tuple[nn.ModuleDict, nn.Module]:
    """Two fresh parts, a projector and a block with LoRA beside random maps, and a frozen pretrained model."""
    fusion = nn.ModuleDict({"key": nn.Linear(4, 4), "lora": LowRankMap(4, 4, 2, 4.0)})
    return nn.ModuleDict({"projector": nn.Linear(3, 4), "fusion": fusion}), nn.Linear(4, 9).requires_grad_(False)


def freeze_all_but_lora(module: nn.Module) -> None:
    """What peft's get_peft_model does to whatever it is given."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora" in name)


def test_every_parameter_is_counted_by_kind_and_by_part():
    trained, model = run()
    found = audit(trained, pretrained={"language model": model})
    assert found.by_kind() == {"pretrained-frozen": 45, "trained": 16 + 20 + 16, "random-frozen": 0}
    assert found.by_part() == {
        "language model": {"pretrained-frozen": 45},
        "projector": {"trained": 16},
        "fusion": {"trained": 36},
    }
    check(found)


def test_a_planted_defect_is_named_and_the_run_refused():
    trained, model = run()
    freeze_all_but_lora(trained["fusion"])
    found = audit(trained, pretrained={"language model": model})
    assert found.by_part()["fusion"] == {"trained": 16, "random-frozen": 20}
    with pytest.raises(ValueError, match=r"2 freshly made .*: fusion.key.weight, fusion.key.bias; set") as caught:
        check(found)
    assert "\n" not in str(caught.value)


def test_many_are_named_in_part():
    found = audit(nn.ModuleList(nn.Linear(1, 1) for _ in range(5)).requires_grad_(False), pretrained={})
    with pytest.raises(ValueError, match=r"10 freshly .*3.bias and 2 more; set"):
        check(found)


def test_nothing_trained_is_refused():
    _, model = run()
    with pytest.raises(ValueError, match="nothing to train"):
        check(audit(nn.ModuleDict(), pretrained={"language model": model}))


def test_shared_weights_are_counted_once_and_are_pretrained():
    trained, model = run()
    trained["language"] = model  # a wrapper that holds the pretrained model as well
    found = audit(trained, pretrained={"language model": model})
    assert found.by_kind()["pretrained-frozen"] == 45
    check(found)
    model.requires_grad_(True)
    assert audit(trained, pretrained={"language model": model}).by_part()["language model"] == {"trained": 45}


def test_what_no_gradient_reaches_is_named():
    trained, _ = run()
    key, lora = trained["fusion"]["key"], trained["fusion"]["lora"]  # type: ignore[index]
    (key(trained["projector"](torch.ones(1, 3))).sum()).backward()
    assert gradient_reach(trained) == ("fusion.lora.down_RI", "fusion.lora.up_OR")
    (lora(torch.ones(1, 4)).sum()).backward()
    assert gradient_reach(trained) == (), "a gradient of zero is one"
    assert not lora.down_RI.grad.any()
