"""One interface for every language model, on tiny random ones; what is no causal language model is one line."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, T5Config

from inscape.pretrained import language_model
from inscape.pretrained.language_model import LanguageModel, line_is_over, open_language_model, use_plain_attention


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return open_language_model("tiny")


@pytest.fixture(scope="module")
def folder(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(lm, lm.model, tmp_path_factory.mktemp("models") / "llama")


def saved(lm: LanguageModel, model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def test_plain_attention_says_the_same(lm: LanguageModel) -> None:
    ids_BT = torch.arange(3, 15).view(2, 6)
    fused = open_language_model("tiny").model
    assert fused.config._attn_implementation == "sdpa"
    plain = open_language_model("tiny").model
    use_plain_attention(plain)
    assert plain.config._attn_implementation == "eager"
    torch.testing.assert_close(plain(ids_BT).logits, fused(ids_BT).logits, atol=1e-5, rtol=1e-5)


def test_models_that_know_nothing_of_it_and_those_elsewhere_stay_as_they_are() -> None:
    use_plain_attention(nn.Linear(2, 2))
    elsewhere = open_language_model("tiny").model.to("meta")
    use_plain_attention(elsewhere)
    assert elsewhere.config._attn_implementation == "sdpa"


# --- the interface ------------------------------------------------------------------------------------------------


def test_the_tiny_one_is_what_it_says(lm: LanguageModel) -> None:
    assert (lm.name, lm.dimension, lm.vocab_size, lm.window) == ("tiny", 32, 257, 2048)
    assert (lm.device, lm.dtype, lm.end_ids) == (torch.device("cpu"), torch.float32, (256,))
    assert lm.table_VD.shape == (257, 32)
    assert not lm.model.training
    assert not any(weight.requires_grad for weight in lm.model.parameters())
    assert len(set(map(tuple, lm.table_VD.tolist()))) == 257, "every id has a row of its own"


@given(text=st.text(max_size=40))
def test_every_text_comes_back(lm: LanguageModel, text: str) -> None:
    ids = lm.encode(text)
    assert len(ids) == len(text.encode())
    assert all(0 <= i < lm.vocab_size for i in ids)
    assert lm.decode(ids) == text


def test_nothing_is_added_to_a_text_and_special_signs_are_not_shown(lm: LanguageModel) -> None:
    assert lm.encode("") == []
    assert lm.encode("a b") == lm.encode("a") + lm.encode(" b")
    assert lm.decode([*lm.encode("yes"), 256]) == "yes"
    assert lm.decode(lm.encode("a , b ?")) == "a , b ?", "spaces stay where they are"


@torch.inference_mode()
def test_rows_are_what_the_model_looks_up(lm: LanguageModel) -> None:
    ids = lm.encode("Context: é")
    assert torch.equal(lm.rows(ids), lm.table_VD[ids])
    by_rows, by_ids = lm.model(inputs_embeds=lm.rows(ids)[None]), lm.model(torch.tensor([ids]))
    assert torch.equal(by_rows.logits, by_ids.logits)
    assert lm.rows([]).shape == (0, 32)
    for wrong in (257, -1):
        with pytest.raises(ValueError, match=f"^tiny: there is no id {wrong}; allowed: 0 to 256$"):
            lm.rows([1, wrong])


def test_a_table_that_the_model_scales_is_given_as_the_model_sees_it(lm: LanguageModel) -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 3 * super().forward(input)

    model = open_language_model("tiny").model
    plain_VD = model.get_input_embeddings().weight
    scaled = Scaled.from_pretrained(plain_VD)
    model.set_input_embeddings(scaled)
    other = LanguageModel(model, lm.tokenizer, "scaled")
    assert torch.equal(other.table_VD, 3 * plain_VD)
    assert torch.equal(other.rows([7, 8]), other.table_VD[[7, 8]])


@pytest.mark.parametrize(
    ("text", "over"),
    [
        ("", False),
        ("\n", False),
        (" \n\n ", False),
        ("red", False),
        ("red\n", True),
        ("\n red", False),
        ("\nred\nc", True),
    ],
)
def test_a_line_is_over_at_its_end_and_a_blank_one_is_none(lm: LanguageModel, text: str, over: bool) -> None:
    assert line_is_over(lm)(lm.encode(text)) is over


def test_random_weights_are_those_of_their_seed() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (open_language_model(name) for name in ("tiny:1", "tiny:1", "tiny:2"))
    assert torch.equal(first.table_VD, again.table_VD)
    assert not torch.allclose(first.table_VD, other.table_VD)
    assert torch.equal(state, torch.random.get_rng_state()), "nobody else's random numbers are used up"


# --- folders ------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_folder_gives_the_model_that_was_saved_there(lm: LanguageModel, folder: Path) -> None:
    opened = open_language_model(str(folder))
    ids = torch.tensor([opened.encode("Question?")])
    assert opened.name == str(folder)
    assert torch.equal(opened.model(ids).logits, lm.model(ids).logits)
    assert opened.end_ids == lm.end_ids
    assert not any(weight.requires_grad for weight in opened.model.parameters())
    assert not opened.model.training


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@torch.inference_mode()
def test_weights_are_rounded_once_and_rotary_frequencies_never(lm: LanguageModel, folder: Path, dtype: str) -> None:
    opened = open_language_model(str(folder), dtype=dtype)
    assert opened.dtype == getattr(torch, dtype)
    assert torch.equal(opened.table_VD, lm.table_VD.to(opened.dtype))
    assert opened.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert open_language_model("tiny", dtype=dtype).dtype == opened.dtype


def test_weights_that_are_missing_damaged_or_pickled_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    weights = load_file(copy / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"it lacks 1 weights, as model\.layers\.1\.mlp\.up_proj\.weight\)$"):
        open_language_model(str(copy))
    (copy / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"^no causal language model from the folder .*$"):
        open_language_model(str(copy))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"^no causal language model from the folder .*$"):
        open_language_model(str(copy))


def test_code_that_comes_with_a_model_is_not_run(lm: LanguageModel, folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for path in folder.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    (own / "theirs.py").write_text("raise SystemExit('their code was run')\n")
    config = json.loads((own / "config.json").read_text())
    classes = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    (own / "config.json").write_text(json.dumps({**config, "model_type": "theirs", "auto_map": classes}))
    with pytest.raises(ValueError, match=r"^no causal language model from the folder .*$"):
        open_language_model(str(own))


# --- what is none -------------------------------------------------------------------------------------------------


def bert() -> BertLMHeadModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertLMHeadModel(BertConfig(**sizes, vocab_size=257))


def test_what_sees_the_future_is_refused(lm: LanguageModel, tmp_path: Path) -> None:
    where = saved(lm, bert(), tmp_path / "bert")
    with pytest.raises(ValueError, match=r"is no causal language model: what comes later changes what it predicts .*$"):
        open_language_model(str(where))
    T5Config(vocab_size=257).save_pretrained(tmp_path / "t5")
    lm.tokenizer.save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match=r"^no causal language model from the folder .*T5Config") as refusal:
        open_language_model(str(tmp_path / "t5"))
    assert "\n" not in str(refusal.value)


def test_without_an_embedding_table_nothing_can_be_fed(lm: LanguageModel) -> None:
    class Tableless(nn.Module):
        def get_input_embeddings(self) -> nn.Module:
            raise NotImplementedError  # as transformers does for a model without such a layer

    for model in (Tableless(), nn.Identity()):
        with pytest.raises(ValueError, match=r"^the language model odd has no embedding table, .*; use smollm2, tiny"):
            _ = LanguageModel(model, lm.tokenizer, "odd").table_VD


def test_rows_that_are_not_taken_are_noticed_at_the_door(lm: LanguageModel) -> None:
    class IdsOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(257, 32)

        def get_input_embeddings(self) -> nn.Module:
            return self.table

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.table(input_ids)

    with pytest.raises(ValueError, match=r"^the language model odd cannot be given rows \("):
        language_model._check(LanguageModel(IdsOnly(), lm.tokenizer, "odd"))


def test_a_name_that_is_none_says_what_may_be_given(tmp_path: Path) -> None:
    for name in (f"{tmp_path}/gone", "./gone", "~/gone/model", ""):
        with pytest.raises(
            ValueError, match=r"^there is no folder .* with a language model; use smollm2, tiny, llava:WHERE, a Hug"
        ):
            open_language_model(name)
    with pytest.raises(ValueError, match="dtype is 'int8'; allowed: float32, bfloat16, float16"):
        open_language_model("tiny", dtype="int8")
    for seed in ("x", "9" * 30):
        with pytest.raises(ValueError, match=f"seed of random weights is '{seed}'; allowed: a number from 0 to 9"):
            open_language_model(f"tiny:{seed}")
    with pytest.raises(ValueError, match="device='tpu' is not known"):
        open_language_model("tiny", device="tpu")


def test_without_a_hub_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def offline(name: str, **options: Any) -> None:
        assert options["use_safetensors"]
        assert options["trust_remote_code"] is False
        asked.append(options.get("local_files_only", False))
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", offline)
    said = (
        r"^no causal language model from some/model, neither on this machine nor from the hub; use smollm2, tiny, .*\)$"
    )
    with pytest.raises(ValueError, match=said):
        open_language_model("some/model")
    assert asked == [True, False], "local files first"
