"""The codec's embedding as a module of sentence-transformers, so that its evaluators, losses and searches can be used.

modules.json of an exported folder names `VisualEmbedding`, and sentence-transformers imports it from here. From version
6 on it does so only for those who say `trust_remote_code=True`, as for every class that is not its own; `load` is for
those who would rather not: it names no code, it only reads weights.

Legend: B sentences, T tokens, Z width of the embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import tokenizers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from inscape.codec import OutOfGrammar, VisualCodec
from inscape.data.scenes.parser import read
from inscape.data.scenes.wording import write
from inscape.data.tokenizer import PAD
from inscape.export.hub_folder import write_model
from inscape.studies.visual.model import MODEL_WEIGHTS, TrainedCodec, load_codec

__all__ = ["VisualEmbedding", "load", "sentence_transformer"]


def load(folder: Path | str, device: str | None = None) -> SentenceTransformer:
    """A folder that `inscape export --format sbert` or `SentenceTransformer.save` made; ValueError in one line."""
    return sentence_transformer(load_codec(Path(folder)), device=device)


def sentence_transformer(codec: TrainedCodec, about: str = "", device: str | None = None) -> SentenceTransformer:
    """The codec as a SentenceTransformer; it shares the codec's weights."""
    return SentenceTransformer(modules=[VisualEmbedding(codec, about)], similarity_fn_name="cosine", device=device)


@final
class VisualEmbedding(InputModule):
    """Sentence -> latent -> embedding of unit norm: what `VisualCodec.embed` gives, warnings included.

    One difference, which is the custom of sentence-transformers: what is longer than `max_seq_length` tokens is cut.
    """

    save_in_root = True

    def __init__(self, codec: TrainedCodec, about: str = "") -> None:
        super().__init__()
        self.model = codec.model
        self.about = about
        self.max_seq_length = codec.model.encoder.config.max_length
        self.tokenizer = tokenizers.Tokenizer.from_str(codec.tokenizer.to_json())
        self._codec = codec
        self._facade = VisualCodec(codec)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Token ids (B, T), padded with 0. ValueError if a sentence is empty or no text."""
        texts = [_text(text) for text in inputs]
        if prompt:
            texts = self._prepend_prompt(texts, prompt)
        length = min(self.max_seq_length, self.model.encoder.config.max_length)
        tokens_BT = torch.from_numpy(self._codec.tokenizer.encode(self._as_trained(texts), length, on_long="truncate"))
        return {"input_ids": tokens_BT, "attention_mask": (tokens_BT != PAD).long()}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds `sentence_embedding` (B, Z); gradients flow through the latent into the encoder."""
        return features | {"sentence_embedding": self.model.embed(self.model.encode(features["input_ids"]))}

    def get_embedding_dimension(self) -> int:
        """Z."""
        return self.model.config.z

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """The whole codec, decoder included, as `--format hf` writes it; ValueError if a pickle is asked for."""
        if not safe_serialization:
            raise ValueError("safe_serialization=False would pickle the weights; leave it out")
        write_model(self._codec, self.about, Path(output_path))

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> VisualEmbedding:
        """From a folder or the hub; what is saved again may be other weights, so their account is not kept."""
        found = cls.load_file_path(
            model_name_or_path, MODEL_WEIGHTS, subfolder, token, cache_folder, revision, local_files_only
        )
        if found is None:
            raise ValueError(f"{model_name_or_path} has no {MODEL_WEIGHTS}; export it again")
        return cls(load_codec(Path(found)))

    def _as_trained(self, texts: list[str]) -> list[str]:
        """As the corpus spells them: a capital and a final stop are forgiven; a warning names what is no scene."""
        if not self._facade.knows_grammar:
            return texts
        spelled, strange = [], []
        for text in texts:
            try:
                spelled.append(write(read(text)))
            except ValueError:
                spelled.append(text)
                strange.append(text)
        if strange:
            others = f", and that of {len(strange) - 1} more" if strange[1:] else ""
            warnings.warn(f"{strange[0]!r}: {self._facade.doubts(strange[0])}{others}", OutOfGrammar, stacklevel=3)
        return spelled


def _text(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{text!r} cannot be embedded; give sentences that are not empty")
    return text
