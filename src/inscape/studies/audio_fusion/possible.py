"""Can these listeners be made at all? Asked of the config before any run, and again before anything is written.

What a config alone does not tell, the layers of a model on a hub or the width of an encoder's frames, is asked once
model and encoder are open.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

from inscape.nn.decoder_layers import decoder_layers
from inscape.pretrained.audio_encoders import open_audio_encoder
from inscape.pretrained.language_model import LanguageModel, open_language_model
from inscape.studies.audio_fusion.kept_encoder import KeptEncoder, figures_of
from inscape.studies.audio_fusion.language import OWN
from inscape.studies.audio_fusion.listener import ListenerConfig
from inscape.user_paths import user_path

__all__ = ["Surroundings", "check_possible", "listeners_of", "surroundings_of"]


class Surroundings(NamedTuple):
    """What a listener has to fit; None: not known yet."""

    model: str  # its name
    layers: int | None  # of the language model
    features: int | None  # width of a frame
    frames: int | None  # of a clip

    def opened(self, lm: LanguageModel | None, encoder: KeptEncoder, seconds: float) -> Surroundings:
        """The same, once the encoder is open, and the model where there is one already."""
        layers = len(decoder_layers(lm.model)) if lm else self.layers
        return Surroundings(self.model, layers, encoder.dimension, encoder.frames(seconds))


def listeners_of(config: Any) -> dict[str, ListenerConfig]:
    """The listeners that a phase's config has, by the names of its fields."""
    named = ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    return {name: value for name, value in named if isinstance(value, ListenerConfig)}


def surroundings_of(config: Any) -> Surroundings:
    """What the config tells without a download."""
    features, frames = None, None
    if config.data.encoder.partition(":")[0] == "log-mel":
        kept = figures_of(open_audio_encoder(config.data.encoder))
        features, frames = kept.dimension, kept.frames(config.data.seconds)
    return Surroundings(config.data.model, _layers_of(config), features, frames)


def check_possible(config: Any, around: Surroundings) -> None:
    """ValueError in one line on a listener of the config that cannot be made in these surroundings."""
    for name, listener in listeners_of(config).items():
        fusion, projector = listener.fusion, listener.projector
        if around.layers is not None and max(fusion.layers, default=0) > around.layers:
            raise ValueError(
                f"{name}.fusion.layers={fusion.layers} name a layer that the model {around.model} has not; "
                f"allowed: 1 to {around.layers}"
            )
        width = projector.bottleneck or around.features
        if projector.kind in ("qformer", "perceiver") and width is not None and width % projector.heads:
            raise ValueError(
                f"{name}.projector.heads={projector.heads} does not divide the inner width of {width}; "
                f"allowed: a divisor of it, or change {name}.projector.bottleneck"
            )
        most = projector.tokens * projector.stack
        if projector.kind == "linear_stack" and around.frames is not None and most < around.frames:
            raise ValueError(
                f"{name}.projector.tokens={projector.tokens} of {name}.projector.stack={projector.stack} frames hold "
                f"{most} frames, and a clip of {config.data.seconds:g} s has {around.frames}; allowed: a product of at "
                f"least {around.frames}, or shorter clips (data.seconds)"
            )


def _layers_of(config: Any) -> int | None:
    model = config.data.model
    if model == OWN:
        return config.language.own.layers
    if model.partition(":")[0] == "tiny":
        return int(open_language_model(model).model.config.num_hidden_layers)
    where = model.removeprefix("llava:")
    try:
        about = json.loads((user_path(where) / "config.json").read_text(encoding="utf-8"))
        return int(about.get("text_config", about)["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # of a hub, or damaged: told when it is opened
