"""The real SmolLM2, where its wheel is installed or an earlier call has left it in the cache; nothing is fetched."""

import importlib.util

import pytest

pytest.importorskip("transformers")

from inscape.pretrained.language_model import LanguageModel, open_language_model
from inscape.pretrained.smollm2 import WHEEL, _installed, _is_right, cache_folder
from inscape.studies.prompt_compression import asking, instrument
from inscape.studies.prompt_compression.asking import AskingConfig, QuestionData

pytestmark = pytest.mark.smollm2
CONFIG = AskingConfig(model="smollm2", questions=4, new_tokens=8)
INSTALLED = _installed(WHEEL)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    readable = all(importlib.util.find_spec(name) for name in ("gguf", "accelerate"))
    cached = (cache_folder() / f"smollm2-135m-instruct-{WHEEL.sha256[:8]}").is_dir()
    if not cached and (INSTALLED is None or not readable):
        pytest.skip(f"{WHEEL.requirement} is neither in {cache_folder()} nor installed with what reads GGUF")
    return asking.open_model(CONFIG, "cpu")


@pytest.mark.skipif(INSTALLED is None, reason=f"{WHEEL.requirement} is not installed")
def test_the_installed_file_is_the_published_one() -> None:
    assert INSTALLED is not None
    assert _is_right(INSTALLED, WHEEL)


def test_it_is_what_it_says(lm: LanguageModel) -> None:
    again = open_language_model("smollm2")
    assert (lm.dimension, lm.vocab_size, lm.model.config.num_hidden_layers) == (576, 49_152, 30)
    assert sum(weight.numel() for weight in again.model.parameters()) == pytest.approx(134.5e6, rel=1e-3)
    assert lm.begin_ids == (), "a text begins with its first word"
    assert lm.encode("Context:") == list(lm.tokenizer("Context:")["input_ids"])
    assert lm.table_VD.equal(again.table_VD)


def test_fed_its_own_rows_it_writes_what_it_writes_when_fed_ids(lm: LanguageModel) -> None:
    prompts = asking.prompts_of(lm, asking.held_out_questions(QuestionData(), CONFIG.questions), CONFIG)
    text = asking.listen_to_text(lm, prompts, CONFIG)
    assert any(text.answers)
    assert instrument.replay(lm, prompts, text, CONFIG).value == 1
    assert instrument.questions_cut(lm, prompts).value == 0


def test_who_owns_the_table_reads_every_token_at_any_width(lm: LanguageModel) -> None:
    prompts = asking.prompts_of(lm, asking.held_out_questions(QuestionData(), CONFIG.questions), CONFIG)
    train = asking.prompts_of(lm, asking.training_questions(QuestionData(), 40, 0), CONFIG)
    found = instrument.id_equivalence(lm, prompts, train, (1, 8, 72, 288))
    assert {name: estimate.value for name, estimate in found.items()} == dict.fromkeys(
        ("id_equivalence_at_1", "id_equivalence_at_8", "id_equivalence_at_72", "id_equivalence_at_288",
         "id_equivalence"), 1)  # fmt: skip
