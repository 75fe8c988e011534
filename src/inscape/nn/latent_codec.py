"""Text -> picture -> text: the encoder, the readout g(V) and the decoder of the visual study, as one module.

Nothing passes from encoder to decoder but V (and z, which is a function of V).

Legend: B batch, T tokens, C, H, W of the latent, M places of the decoder's memory, D reader's width, Z width of z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from inscape.data.tokenizer import EOS, PAD
from inscape.nn.attention import MASKED, init_linear
from inscape.nn.by_length import in_order, parts_by_length
from inscape.nn.decoder import Decoder
from inscape.nn.latent_encoder import LatentEncoder, LatentEncoderConfig
from inscape.nn.patch_reader import PatchReader
from inscape.nn.readout import PooledReadout, SpatialReadout

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from inscape.nn.constraint import Constraint

__all__ = ["Generated", "LatentCodec", "LatentCodecConfig"]


@dataclass(frozen=True)
class LatentCodecConfig:
    """Sizes of reader, readout and decoder. Defaults are the plan's where it names any."""

    d: int = 384  # width of reader and decoder
    heads: int = 8  # attention heads
    ffn: int = 1536  # width inside the feed-forward layers
    dropout: float = 0.1  # probability, in [0, 1)
    patch: int = 4  # pixels: side of the patches that V is read in
    reader_layers: int = 2  # transformer layers over the patches
    decoder_layers: int = 4  # transformer layers of the decoder
    readout: str = "spatial"  # spatial | pooled (mean and variance of each channel, the plan's)
    readout_layers: int = 1  # spatial: transformer layers before the queries
    readout_queries: int = 4  # spatial: how many queries
    z: int = 256  # width of the embedding
    z_places: int = 4  # places of the decoder's memory that z fills

    def __post_init__(self) -> None:
        for name in ("d", "heads", "ffn", "patch", "decoder_layers", "readout_queries", "z", "z_places"):
            if not 1 <= getattr(self, name) <= 65_536:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: 1 to 65536")
        for name in ("reader_layers", "readout_layers"):
            if not 0 <= getattr(self, name) <= 256:
                raise ValueError(f"{name}={getattr(self, name)} is out of range; allowed: 0 to 256")
        if self.d % (2 * self.heads):
            raise ValueError(f"d={self.d} is out of range; allowed: a multiple of 2 x heads ({2 * self.heads})")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is out of range; allowed: 0 to 1, 1 excluded")
        if self.readout not in ("spatial", "pooled"):
            raise ValueError(f"readout={self.readout!r} is not known; allowed: spatial, pooled")


class Generated(NamedTuple):
    """Free-running output: ids without start and with eos, padded with 0, and where each token looked."""

    tokens_BT: Tensor
    attention_BTM: Tensor


class LatentCodec(nn.Module):
    """Encoder, reader, readout and decoder. ValueError if patches do not tile the latent."""

    def __init__(self, encoder: LatentEncoderConfig, config: LatentCodecConfig) -> None:
        super().__init__()
        if encoder.H % config.patch or encoder.W % config.patch:
            raise ValueError(f"patch={config.patch} is out of range; allowed: divisors of {encoder.H} and {encoder.W}")
        self.config = config
        sizes = (config.d, config.heads, config.ffn, config.dropout)
        self.encoder = LatentEncoder(encoder)
        self.reader = PatchReader(
            *sizes, latent_CHW=(encoder.C, encoder.H, encoder.W), side=config.patch, layers=config.reader_layers
        )
        self.readout = (
            PooledReadout(encoder.C, config.d, config.z)
            if config.readout == "pooled"
            else SpatialReadout(
                *sizes,
                layers=config.readout_layers,
                queries=config.readout_queries,
                z=config.z,
            )
        )
        self.z_enter = init_linear(nn.Linear(config.z, config.z_places * config.d))
        self.decoder = Decoder(encoder.vocab, *sizes, layers=config.decoder_layers, max_length=encoder.max_length)

    @property
    def places(self) -> int:
        """Places of the decoder's memory that are patches of V."""
        return self.reader.grid[0] * self.reader.grid[1]

    def encode(self, tokens_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B C H W"]:
        """V, float32."""
        return self.encoder(tokens_BT)

    def encode_soft(
        self, tokens_BT: Int[Tensor, "B T"], chance_BTV: Float[Tensor, "B T V"]
    ) -> Float[Tensor, "B C H W"]:
        """V of the tokens, with the gradient that their expected embeddings have (straight-through, Bengio 2013).

        chance_BTV: probabilities that the tokens were drawn from; the value of V does not depend on them.
        """
        table_VD = self.encoder.text_encoder.embedding.weight
        expected_BTD = chance_BTV.to(table_VD.dtype) @ table_VD.detach()
        # Not table_VD[tokens_BT]: on several threads its backward adds a token's places in any order (not bit for bit).
        embedded_BTD = functional.embedding(tokens_BT, table_VD) + expected_BTD - expected_BTD.detach()
        return self.encoder(tokens_BT, embedded_BTD)

    def embed(
        self, latent_BCHW: Float[Tensor, "B C H W"], states_BPD: Float[Tensor, "B P D"] | None = None
    ) -> Float[Tensor, "B Z"]:
        """z = g(V), of unit norm, float32. `states_BPD`: what the reader made of V, where that is known already."""
        if isinstance(self.readout, PooledReadout):
            return self.readout(latent_BCHW)
        return self.readout(self.reader(latent_BCHW) if states_BPD is None else states_BPD)

    def memory(self, states_BPD: Float[Tensor, "B P D"], z_BZ: Float[Tensor, "B Z"]) -> Float[Tensor, "B M D"]:
        """What the decoder looks at: the patches' states, then z."""
        z_BKD = self.z_enter(z_BZ * z_BZ.shape[-1] ** 0.5).unflatten(-1, (self.config.z_places, -1))
        return torch.cat((states_BPD, z_BKD.to(states_BPD.dtype)), 1)

    def memory_bias(self, sees_v_B: Tensor, sees_z_B: Tensor) -> Float[Tensor, "B M"]:
        """Attention bias that hides V or z from some of the sentences."""
        of_v_M = torch.arange(self.places + self.config.z_places, device=sees_v_B.device) < self.places
        seen_BM = torch.where(of_v_M, sees_v_B[:, None], sees_z_B[:, None])
        return torch.zeros(seen_BM.shape, device=seen_BM.device).masked_fill(~seen_BM, MASKED)

    def decode(
        self, memory_BMD: Float[Tensor, "B M D"], bias_BM: Float[Tensor, "B M"], tokens_BT: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """Logits after each token (teacher forcing); the first token is a start token."""
        return self.decoder(tokens_BT, self.decoder.look_up(memory_BMD), bias_BM)[0]

    def token_loss(
        self,
        memory_BMD: Float[Tensor, "B M D"],
        bias_BM: Float[Tensor, "B M"],
        read_BT: Int[Tensor, "B T"],
        said_BT: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """Cross-entropy in nats of each token that is to be said, 0 at padding (teacher forcing)."""
        parts = parts_by_length(said_BT != PAD, self.decoder)
        if not parts:
            return self._token_loss(memory_BMD, bias_BM, read_BT, said_BT)
        losses = []
        for row_B, tokens in parts:
            read, said = read_BT[row_B, :tokens], said_BT[row_B, :tokens]
            loss = self._token_loss(memory_BMD[row_B], bias_BM[row_B], read, said)
            losses.append(functional.pad(loss, (0, said_BT.shape[1] - tokens)))
        return in_order(losses, parts)

    def _token_loss(self, memory_BMD: Tensor, bias_BM: Tensor, read_BT: Tensor, said_BT: Tensor) -> Tensor:
        states_BTD = self.decoder.states(read_BT, self.decoder.look_up(memory_BMD), bias_BM)[0]
        kept_BT = said_BT != PAD
        if states_BTD.device.type != "cpu":  # picking out what is kept would make the host wait for the device
            logits_NV = self.decoder.logits(states_BTD).flatten(0, 1).float()
            loss_BT = functional.cross_entropy(logits_NV, said_BT.flatten(), reduction="none").view(said_BT.shape)
            return loss_BT * kept_BT
        loss_N = functional.cross_entropy(
            self.decoder.logits(states_BTD[kept_BT]).float(), said_BT[kept_BT], reduction="none"
        )
        return loss_N.new_zeros(said_BT.shape).masked_scatter(kept_BT, loss_N)

    @torch.no_grad()
    def generate(
        self,
        memory_BMD: Float[Tensor, "B M D"],
        bias_BM: Float[Tensor, "B M"],
        start: int,
        *,
        constraint: Constraint | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Generated:
        """Free-running text, greedy at temperature 0, else sampled from the smallest set of tokens of mass `top_p`.

        ValueError if either is out of range.
        """
        if not 0 <= temperature < torch.inf:
            raise ValueError(f"temperature={temperature} is out of range; allowed: 0 or more")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p={top_p} is out of range; allowed: above 0, up to 1")
        batch, device = len(memory_BMD), memory_BMD.device
        looked, past = self.decoder.look_up(memory_BMD), None
        token_B = torch.full((batch,), start, device=device)
        state_B = constraint.initial(batch) if constraint else None
        done_B = torch.zeros(batch, dtype=torch.bool, device=device)
        tokens, attention = [], []
        longest = self.encoder.config.max_length - 1
        for i in range(longest):
            logits_BTV, past, seen_BTM = self.decoder(token_B[:, None], looked, bias_BM, past)
            logits_BV = logits_BTV[:, -1].float()
            if constraint is not None and state_B is not None:
                logits_BV = logits_BV.masked_fill(~constraint.allowed(state_B, longest - i), MASKED)
            token_B = _choose(logits_BV, temperature, top_p, generator).masked_fill(done_B, PAD)
            if constraint is not None and state_B is not None:
                state_B = constraint.advance(state_B, token_B)
            tokens.append(token_B)
            attention.append(seen_BTM[:, 0])
            done_B = done_B | (token_B == EOS)
            if i % 4 == 3 and bool(done_B.all()):  # asked now and then: each time the host waits for the device
                break
        return Generated(torch.stack(tokens, 1), torch.stack(attention, 1))


def _choose(logits_BV: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return logits_BV.argmax(-1)
    chance_BV = functional.softmax(logits_BV / temperature, -1)
    if top_p < 1:
        ordered, order = chance_BV.sort(-1, descending=True)
        kept = (ordered.cumsum(-1) - ordered) < top_p  # nucleus sampling, Holtzman et al. 2020
        chance_BV = torch.zeros_like(chance_BV).scatter(-1, order, ordered * kept)
    return torch.multinomial(chance_BV, 1, generator=generator)[:, 0]
