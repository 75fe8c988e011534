"""The language model that hears: a frozen encoder's features, a projector, and fusion into the frozen model's layers.

Only projector and fusion are trained, and only they are saved. Captions are written greedily, all clips behind one
prompt, with the model's own cache; where several are sampled, the best is chosen by how probable they are and by how
much more probable than without the sound: nothing that a listener in the field would not have.

Legend: B batch, T frames, F features, K audio tokens, D width of the language model, N tokens of prompt and caption.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from inscape.checkpoint import weights_of
from inscape.core.config import with_changes
from inscape.core.rundir import write_atomically
from inscape.device import seed_everything
from inscape.nn.audio_projectors import ProjectorConfig, make_projector
from inscape.nn.audio_tokens import AudioTokens
from inscape.nn.fusion import Fusion, FusionConfig
from inscape.pretrained.language_model import LanguageModel, line_is_over
from inscape.studies.audio_fusion.kept_encoder import KeptEncoder, check_same_encoder
from inscape.studies.audio_fusion.language import begin_ids
from inscape.studies.audio_fusion.memory import in_batches
from inscape.studies.audio_fusion.sounds import Sounds, batch_of, statistics_of

__all__ = [
    "BASELINE",
    "PHASE1",
    "Hearing",
    "Listener",
    "ListenerConfig",
    "caption_ids",
    "caption_states",
    "hearing",
    "load_listener",
    "log_probabilities",
    "new_listener",
    "of_masked",
    "of_sounds",
    "save_listener",
    "side_by_side",
    "write_captions",
]

ABOUT = "inscape.listener"
Hearing = Callable[
    [int, int], tuple[Tensor, Tensor] | None
]  # features and mask of the clips of a range; None: no audio


@dataclass(frozen=True)
class ListenerConfig:
    """What is trained."""

    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    fusion: FusionConfig = field(default_factory=lambda: FusionConfig(layers=(8, 16, 24, 32)))
    lr_projector: float = 1e-3  # peak learning rate of the projector
    lr_adapter: float = 5e-4  # peak learning rate of the fusion

    def __post_init__(self) -> None:
        for name in ("lr_projector", "lr_adapter"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: above 0, up to 1")


# The two configs of the plan's table, side by side.
BASELINE = ListenerConfig(
    projector=ProjectorConfig(kind="mlp", tokens=16, bottleneck=1024, scale=2.0, dropout=0.1),
    fusion=FusionConfig(
        kind="lora_cross_attention",
        layers=(6, 12, 24),
        rank=8,
        alpha=16.0,
        residual_init=0.05,
        residual_max=0.3,
        gate_warmup=2000,
    ),
    lr_projector=2e-4,
    lr_adapter=1e-4,
)
PHASE1 = ListenerConfig(
    projector=ProjectorConfig(kind="mlp", tokens=32, bottleneck=1024, scale=10.0, dropout=0.1),
    fusion=FusionConfig(
        kind="lora_cross_attention",
        layers=(8, 16, 24, 32),
        rank=64,
        alpha=16.0,
        residual_init=0.3,
        residual_max=1.0,
        gate_warmup=0,
    ),
    lr_projector=1e-3,
    lr_adapter=5e-4,
)


@final
class Listener(nn.Module):
    """Projector and fusion for one language model, with the statistics of the features they read."""

    mean_F: Tensor
    std_F: Tensor

    def __init__(self, config: ListenerConfig, features: int, lm: LanguageModel) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("std_F", torch.ones(features))
        self.projector = make_projector(config.projector, features, lm.dimension)
        self.fusion = Fusion(config.fusion, lm.model)
        # Read by the optimizer: shares of the learning rate, by the beginning of a parameter's name.
        share = config.lr_adapter / config.lr_projector
        self.learning_rate_shares = {"fusion": share} if share != 1 else {}

    def hear(self, features_BTF: Tensor, mask_BT: Tensor) -> AudioTokens:
        """The audio tokens of clips; a clip without frames has none, and what padding holds reaches none."""
        normal_BTF = (features_BTF - self.mean_F).div_(self.std_F)  # in place: frames are most of what a step moves
        return self.projector(normal_BTF, mask_BT)


def new_listener(config: ListenerConfig, sounds: Sounds, lm: LanguageModel, seed: int) -> Listener:
    """An untrained listener, the same for the same seed, that knows the statistics of the training sounds."""
    seed_everything(seed)
    listener = Listener(config, sounds.features_NTF.shape[2], lm)
    mean_F, std_F = statistics_of(sounds)
    listener.mean_F.copy_(mean_F)
    listener.std_F.copy_(std_F)
    return listener.to(lm.device)


@contextmanager
def hearing(
    lm: LanguageModel, listener: Listener | None, heard: tuple[Tensor, Tensor] | None, *, measure: bool = False
) -> Iterator[Any]:
    """Within, the model hears these features (B, T, F) with their mask; without a listener or features it is itself."""
    if listener is None or heard is None:
        with nullcontext() as nothing:
            yield nothing
        return
    tokens = listener.hear(*(each.to(lm.device) for each in heard))
    with listener.fusion.attached(lm.model, tokens, measure=measure) as attached:
        yield attached


def caption_ids(lm: LanguageModel, prompt: str, captions: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Ids of the prompt, and of each caption with the sign that ends it."""
    asked = [*begin_ids(lm), *lm.encode(prompt)] or [lm.end_ids[0]]
    spaced = "" if prompt[-1:].isspace() or not prompt else " "
    return asked, [[*lm.encode(spaced + each), lm.end_ids[0]] for each in captions]


def caption_states(lm: LanguageModel, ids_BN: Tensor) -> Tensor:
    """Last hidden states (B, N, D) of texts padded on the right: a causal mask hides what comes after."""
    return lm.model.base_model(input_ids=ids_BN, use_cache=False).last_hidden_state


def of_sounds(sounds: Sounds, order: Sequence[int] | None = None) -> Hearing:
    """A hearing of a split's clips in their order, or each place given the clip that `order` names."""
    places = range(sounds.size) if order is None else order
    return lambda first, last: batch_of(sounds, list(places[first:last]))


def of_masked(sounds: Sounds) -> Hearing:
    """The same clips with every frame masked: who looks past the mask hears them, and nobody else hears anything."""

    def masked(first: int, last: int) -> tuple[Tensor, Tensor]:
        features_BTF, mask_BT = batch_of(sounds, range(first, last))
        return features_BTF, torch.zeros_like(mask_BT)

    return masked


@torch.no_grad()
def write_captions(
    lm: LanguageModel,
    listener: Listener | None,
    heard: Hearing,
    count: int,
    *,
    prompt: str,
    new_tokens: int,
    batch: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """A caption for each of `count` clips: greedy, or sampled at a temperature above 0. Only new words are returned.

    batch: clips side by side, fewer where memory does not suffice.
    """
    asked, _ = caption_ids(lm, prompt, [])
    draw = torch.Generator().manual_seed(seed)

    def some(first: int, last: int) -> list[str]:
        with hearing(lm, listener, heard(first, last)):
            new = _write(lm, asked, last - first, new_tokens, temperature, draw)
        return [lm.decode(ids).strip().split("\n")[0].strip() for ids in new]

    return in_batches(count, batch, some)


def _write(
    lm: LanguageModel, asked: Sequence[int], count: int, most: int, temperature: float, draw: torch.Generator
) -> list[list[int]]:
    """New ids behind one prompt, side by side; those that are over are written on and cut, all have one length."""
    fed_BN = torch.tensor([list(asked)] * count, device=lm.device)
    over, ends, cache = line_is_over(lm), set(lm.end_ids), None
    new: list[list[int]] = [[] for _ in range(count)]
    going = set(range(count))
    for _ in range(most):
        out = lm.model(input_ids=fed_BN, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits_BV = out.logits[:, -1].float()
        if temperature:
            chances_BV = (logits_BV / temperature).softmax(-1).cpu()
            chosen_B = torch.multinomial(chances_BV, 1, generator=draw)[:, 0].to(lm.device)
        else:
            chosen_B = logits_BV.argmax(-1)
        for i in sorted(going):
            token = int(chosen_B[i])
            if token not in ends:
                new[i].append(token)
            if token in ends or over(new[i]):
                going.discard(i)
        if not going:
            break
        fed_BN = chosen_B[:, None]
    return new


@torch.no_grad()
def log_probabilities(
    lm: LanguageModel,
    listener: Listener | None,
    heard: Hearing,
    captions: Sequence[str],
    *,
    prompt: str,
    batch: int,
) -> list[float]:
    """Log probability of each whole caption behind the prompt, in nats, its end included."""
    asked, ids = caption_ids(lm, prompt, captions)

    def some(first: int, last: int) -> list[float]:
        ids_BN, counted_BN = (each.to(lm.device) for each in side_by_side(asked, ids[first:last]))
        with hearing(lm, listener, heard(first, last)):
            states_BND = caption_states(lm, ids_BN)
        found = []
        for states_ND, ids_N, counted_N in zip(states_BND, ids_BN, counted_BN, strict=True):
            logits_MV = lm.model.get_output_embeddings()(states_ND[:-1][counted_N[1:]]).float()
            found.append(-float(nn.functional.cross_entropy(logits_MV, ids_N[counted_N], reduction="sum")))
        return found

    return in_batches(len(captions), batch, some)


def side_by_side(asked: Sequence[int], captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prompt and caption of each, padded on the right (B, N), and which places are the captions' (B, N)."""
    most = len(asked) + max(len(each) for each in captions)
    ids_BN = torch.zeros(len(captions), most, dtype=torch.long)
    counted_BN = torch.zeros(len(captions), most, dtype=torch.bool)
    for i, each in enumerate(captions):
        end = len(asked) + len(each)
        ids_BN[i, :end] = torch.tensor([*asked, *each])
        counted_BN[i, len(asked) : end] = True
    return ids_BN, counted_BN


def save_listener(listener: Listener, config: ListenerConfig, encoder: KeptEncoder, path: Path) -> None:
    """Weights, config, the encoder it hears by and how far the gates had been let open, in one safetensors file."""
    about = {
        "config": asdict(config),
        "features": len(listener.mean_F),
        "encoder": encoder._asdict(),
        "strength": listener.fusion.gain,
    }
    write_atomically(path, save(weights_of(listener), {ABOUT: json.dumps(about)}))


def load_listener(path: Path, lm: LanguageModel, encoder: KeptEncoder) -> tuple[Listener, ListenerConfig]:
    """The inverse, on the model and the encoder it was trained for.

    ValueError in one line if the file is missing, damaged, of another model, or was trained on another encoder.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[ABOUT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        check_same_encoder(encoder, KeptEncoder(**about["encoder"]))
        config = with_changes(ListenerConfig(), about["config"])
        listener = Listener(config, about["features"], lm)
        listener.load_state_dict(tensors)
        listener.fusion.strength = float(about["strength"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path} holds no listener for {lm.name} ({reason}); run the phase that trains it again"
        ) from None
    return listener.to(lm.device).eval(), config
