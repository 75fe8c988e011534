"""The language tower out of a tiny random LLaVA is LLaVA on text, and a language model like any other here."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from inscape.pretrained import language_model
from inscape.pretrained.language_model import LanguageModel, line_is_over, open_language_model
from inscape.pretrained.llava import open_llava_language
from inscape.pretrained.plain_generation import generate_from_ids
from inscape.pretrained.tiny_language_model import tiny_language_model

TEXT = "Question: what do you hear?\nAnswer:"


def tiny_llava(tied: bool = False) -> Any:
    """A LLaVA over tiny_language_model's signs and one for pictures, its weights large enough that text matters."""
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=8,
    )
    language = LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=language, image_token_index=259, tie_word_embeddings=tied)
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            module.weight.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["own head", "tied head"])
def llava(request: pytest.FixtureRequest) -> Any:
    return tiny_llava(request.param)


@pytest.fixture(scope="module")
def folder(llava: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llava"
    llava.generation_config.eos_token_id = [256, 258]
    llava.save_pretrained(folder)
    tiny_language_model().tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lm(folder: Path) -> LanguageModel:
    return open_llava_language(str(folder))


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0]


def test_on_text_it_is_the_whole_llava(llava: Any, lm: LanguageModel) -> None:
    ids = lm.encode(TEXT)
    expected = logits(llava, ids)
    assert torch.equal(logits(lm.model, ids), expected)
    assert expected.std() > 0.1, "the logits say something"
    assert len(set(expected.argmax(-1).tolist())) > 3


def test_it_is_a_language_model_like_any_other(lm: LanguageModel, folder: Path) -> None:
    assert (lm.name, lm.dimension, lm.vocab_size, lm.window) == (f"llava:{folder}", 32, 260, 512)
    assert (lm.device, lm.dtype, lm.end_ids) == (torch.device("cpu"), torch.float32, (256, 258))
    assert lm.decode(lm.encode(TEXT)) == TEXT
    assert not lm.model.training
    assert not any(weight.requires_grad for weight in lm.model.parameters())
    assert len(lm.model.model.layers) == 3
    language_model._check(lm)  # what every other model is put through when it is opened


def test_rows_stand_for_ids(lm: LanguageModel) -> None:
    ids = lm.encode(TEXT)
    with torch.inference_mode():
        from_rows = lm.model(inputs_embeds=lm.rows(ids)[None]).logits[0]
    assert torch.equal(from_rows, logits(lm.model, ids))


def test_what_it_writes_is_what_llava_writes(llava: Any, lm: LanguageModel) -> None:
    ids = lm.encode(TEXT)
    written = generate_from_ids(lm, ids, 20, line_is_over(lm))
    assert written == generate_from_ids(lm._replace(model=llava), ids, 20, line_is_over(lm))
    assert len(set(written)) > 3


def test_the_picture_tower_is_let_go(llava: Any, lm: LanguageModel) -> None:
    decoder, head = llava.model.language_model, llava.get_output_embeddings()
    kept = {id(weight): weight.numel() for part in (decoder, head) for weight in part.parameters()}
    assert sum(weight.numel() for weight in lm.model.parameters()) == sum(kept.values())
    assert not [name for name, _ in lm.model.named_modules() if "vision" in name or "projector" in name]


def test_it_opens_again_as_the_causal_model_that_it_is(lm: LanguageModel, tmp_path: Path) -> None:
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    again = open_language_model(str(tmp_path))
    assert torch.equal(logits(again.model, lm.encode(TEXT)), logits(lm.model, lm.encode(TEXT)))


def test_weights_are_rounded_and_rotary_frequencies_are_not(lm: LanguageModel, folder: Path) -> None:
    rounded = open_llava_language(str(folder), dtype="bfloat16")
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded.table_VD, lm.table_VD.bfloat16())
    assert rounded.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(rounded.model.model.rotary_emb.inv_freq, lm.model.model.rotary_emb.inv_freq)
    with pytest.raises(ValueError, match="dtype is 'int8'; allowed: float32"):
        open_llava_language(str(folder), dtype="int8")


def test_a_folder_with_another_model_is_one_line(tmp_path: Path) -> None:
    tiny_language_model().model.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"^llava: the folder .* holds a model of type llama and not llava: open it wi"
    ):
        open_llava_language(str(tmp_path))


def test_a_folder_that_lacks_something_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^llava: there is no folder .*gone; give a folder with its config\.json"):
        open_llava_language(f"{tmp_path}/gone")
    with pytest.raises(ValueError, match=r"^llava: no LLaVA from the folder [^\n]*$"):
        open_llava_language(str(tmp_path))
    tiny_llava().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^llava: no LLaVA from the folder [^\n]*$"):  # there is no tokenizer
        open_llava_language(str(tmp_path))
    tiny_language_model().tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights[next(name for name in weights if "q_proj" in name and "language" in name)]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"^llava: the folder .* lacks 1 weights of this model, such as .*q_proj"):
        open_llava_language(str(tmp_path))
    torch.save(weights, tmp_path / "pytorch_model.bin")
    path.unlink()
    with pytest.raises(ValueError, match=r"^llava: no LLaVA from the folder [^\n]*safetensors[^\n]*$"):
        open_llava_language(str(tmp_path))


def test_no_code_that_comes_with_a_model_is_run(tmp_path: Path, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise RuntimeError('run')")
    with pytest.raises(ValueError, match=r"^llava: no LLaVA from the folder [^\n]*$") as refusal:
        open_llava_language(str(tmp_path))
    assert "RuntimeError" not in str(refusal.value)


def test_without_a_hub_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    asked: list[bool] = []

    def offline(name: str, **options: bool) -> None:
        assert options["trust_remote_code"] is False
        asked.append(options.get("local_files_only", False))
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
    with pytest.raises(ValueError, match=r"^llava: no LLaVA from llava-hf/llava-1\.5-13b-hf, .* give llava:FOLDER \("):
        open_llava_language()
    assert asked == [True, False], "local files first"
