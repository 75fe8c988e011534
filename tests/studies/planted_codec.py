"""A codec that holds by construction what the gates of P2 to P5 ask for, and takes the place of a trained one.

V has two halves. Channels 0 to 2 are the scene: a sign, drawn from a hash of the scene, for each block of 8 x 8 pixels,
read off the block's interior, so that a shift of 2 pixels, a mild blur or a small hole leaves it. Channels 3 to 5 are
the sentence: each bit of each token on 8 pixels strewn over them, so that noise of half V's spread does not flip it.
z is the first half alone; the decoder reads the second.

Worlds that are empty in one way are subclasses that override one method: see the tests of the gates.

Legend: B sentences, T tokens, C, H, W of the latent, P patches, K pixels of a patch, M places of the memory, Z of z.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inscape.data.scenes import Scene, canonical, render
from inscape.data.tokenizer import CANONICAL, PARAPHRASE, Tokenizer
from inscape.metrics.text import rouge_l
from inscape.nn.latent_codec import Generated
from inscape.nn.latent_encoder import LatentEncoderConfig
from inscape.nn.patch_reader import to_patches
from inscape.studies.visual.model import TrainedCodec
from inscape.studies.visual.paraphrasing import meaning_of

TOKENS, BITS, CARRIERS = 40, 9, 8  # sentences of two facts have at most 37 tokens; 512 ids; pixels a bit
SIDE, GRID = 8, (4, 4)
MARKS = 3 * GRID[0] * GRID[1]
INTERIOR = slice(2, 6)  # of a block: what a shift of 2 pixels does not reach


def signs(name: str, count: int = MARKS) -> np.ndarray:
    """`count` signs that are a function of the name alone."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return np.where(np.random.Philox(key=key).random_raw(count) >> np.uint64(63), 1.0, -1.0)


class Encoder(nn.Module):
    """What `encode` needs: sizes, a parameter that says on which device, and tokens to latents."""

    def __init__(self, vocab: int, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.config = LatentEncoderConfig(vocab=vocab, max_length=TOKENS)
        self.device = nn.Parameter(torch.zeros(1))
        self.write = write

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.write(tokens_BT)


class Reader(nn.Module):
    """Patches as they are."""

    side, grid = SIDE, GRID

    def forward(self, latent_BCHW: Tensor) -> Tensor:
        return to_patches(latent_BCHW, SIDE)


class PlantedModel(nn.Module):
    """Everything that the measurements call of a LatentCodec."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer.vocab_size, self.write)
        self.reader = Reader()
        self.places = GRID[0] * GRID[1]
        order = np.random.default_rng(0).permutation(3 * 32 * 32)[: TOKENS * BITS * CARRIERS]
        self.carrier_KP = torch.from_numpy(order.reshape(TOKENS * BITS, CARRIERS))
        self.flip_K = torch.from_numpy(signs("flip", TOKENS * BITS))  # without it padding would be a flat level

    # --- text to V ---

    def mark(self, text: str) -> np.ndarray:
        """What the blocks hold of a sentence: (MARKS,)."""
        scene = meaning_of(text)
        return signs(text if scene is None else repr(scene.codes))

    def write(self, tokens_BT: Tensor) -> Tensor:
        marks = np.stack([self.mark(text) for text in self.tokenizer.decode(tokens_BT.numpy())])
        return torch.cat((self.blocks(torch.from_numpy(marks).float()), self.strewn(tokens_BT)), 1)

    def blocks(self, mark_BZ: Tensor) -> Tensor:
        return mark_BZ.unflatten(1, (3, *GRID)).repeat_interleave(SIDE, 2).repeat_interleave(SIDE, 3)

    def strewn(self, tokens_BT: Tensor) -> Tensor:
        tokens_BT = nn.functional.pad(tokens_BT, (0, TOKENS - tokens_BT.shape[1]))
        bit_BK = ((tokens_BT[..., None] >> torch.arange(BITS)) & 1).flatten(1)
        pixel_BN = torch.ones(len(tokens_BT), 3 * 32 * 32)
        value_BK = ((2 * bit_BK - 1) * self.flip_K).float()
        pixel_BN[:, self.carrier_KP.flatten()] = value_BK.repeat_interleave(CARRIERS, 1)
        return pixel_BN.unflatten(1, (3, 32, 32))

    # --- V to z ---

    def embed(self, latent_BCHW: Tensor, states_BPD: Tensor | None = None) -> Tensor:
        inside = latent_BCHW[:, :3].unflatten(2, (-1, SIDE)).unflatten(4, (-1, SIDE))[:, :, :, INTERIOR, :, INTERIOR]
        return nn.functional.normalize(inside.mean((3, 5)).flatten(1).sign(), dim=1)

    # --- V to text ---

    def memory(self, states_BPD: Tensor, z_BZ: Tensor) -> Tensor:
        z_B1D = nn.functional.pad(z_BZ, (0, states_BPD.shape[-1] - z_BZ.shape[1]))[:, None]
        return torch.cat((states_BPD, z_B1D), 1)

    def memory_bias(self, sees_v_B: Tensor, sees_z_B: Tensor) -> Tensor:
        seen_BM = torch.cat((sees_v_B[:, None].expand(-1, self.places), sees_z_B[:, None]), 1)
        return torch.where(seen_BM, 0.0, -torch.inf)

    def read(self, memory_BMD: Tensor, bias_BM: Tensor) -> Tensor:
        """The tokens that V's second half holds, bos first; all bits of what is hidden are 0."""
        patch_BPK = memory_BMD[:, : self.places] * torch.isfinite(bias_BM[:, : self.places, None])
        pixel = patch_BPK.unflatten(2, (6, SIDE, SIDE)).unflatten(1, GRID).permute(0, 3, 1, 4, 2, 5)[:, 3:]
        bit_BK = pixel.flatten(1)[:, self.carrier_KP].mean(-1) * self.flip_K > 0
        token_BT = (bit_BK.unflatten(1, (TOKENS, BITS)) << torch.arange(BITS)).sum(-1)
        return token_BT % self.tokenizer.vocab_size

    def decode(self, memory_BMD: Tensor, bias_BM: Tensor, read_BT: Tensor) -> Tensor:
        said_BT = self.read(memory_BMD, bias_BM)[:, 1 : 1 + read_BT.shape[1]]
        return 20.0 * nn.functional.one_hot(said_BT, self.tokenizer.vocab_size).float()

    def generate(
        self, memory_BMD: Tensor, bias_BM: Tensor, start: int, *, generator: torch.Generator, **_: object
    ) -> Generated:
        said_BT = self.read(memory_BMD, bias_BM)[:, 1:]
        if start in (CANONICAL, PARAPHRASE):
            rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
            texts = [self.reworded(text, start, rng) for text in self.tokenizer.decode(said_BT.numpy())]
            said_BT = torch.from_numpy(self.tokenizer.encode(texts, max_length=TOKENS)).long()[:, 1:]
        look_BTM = nn.functional.one_hot(torch.arange(said_BT.shape[1]) % self.places, self.places + 1)
        return Generated(said_BT, look_BTM.float().expand(len(said_BT), -1, -1))

    def reworded(self, text: str, start: int, rng: np.random.Generator) -> str:
        scene = meaning_of(text)
        if scene is None:
            return text
        return canonical(scene) if start == CANONICAL else self.paraphrase(text, scene, rng)

    def paraphrase(self, text: str, scene: Scene, rng: np.random.Generator) -> str:
        """Of eight wordings the one that shares least with the sentence: what copy suppression is for."""
        return min((render(scene, rng) for _ in range(8)), key=lambda other: rouge_l(text, other))


@lru_cache
def planted(kind: Callable[[Tokenizer], Any], tokenizer: Tokenizer) -> TrainedCodec:
    """A codec whose model is of this kind."""
    return TrainedCodec(kind(tokenizer), tokenizer)
