"""What a codec hands out and takes back: latents as a tensor that knows its channels, and what can be none.

Legend: B sentences, C, H, W of the latent.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from torch import Tensor, bfloat16, float16, float32, float64, strided

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Latents", "checked_latents"]

FLOATS = (float32, float64, float16, bfloat16)
LARGEST = 1e4  # of a latent's values; they have about unit variance, and squares of 1e20 are no longer numbers


class Latents(Tensor):
    """Latents (B, C, H, W), channels first: a tensor in all else. On the disk they are a plain tensor."""

    def to_hwc(self) -> Tensor:
        """A plain tensor with channels last, (B, H, W, C), as picture libraries want it; one latent gives (H, W, C)."""
        if self.ndim < 3:
            raise ValueError(f"to_hwc of shape {tuple(self.shape)}; allowed: (..., channels, height, width)")
        return self.as_subclass(Tensor).movedim(-3, -1).contiguous()

    def __deepcopy__(self, memo: dict[int, Any]) -> Latents:
        """A copy with a memory of its own, as of any tensor; torch's knows no subclass without a constructor."""
        if id(self) in memo:
            return memo[id(self)]
        if self.requires_grad and not self.is_leaf:
            copied = copy.deepcopy(self.as_subclass(Tensor), memo)  # torch says why that cannot be copied
        else:
            copied = copy.deepcopy(self.detach().as_subclass(Tensor), memo)
        found = copied.as_subclass(Latents)
        found.requires_grad_(self.requires_grad)
        memo[id(self)] = found
        return found

    def __copy__(self) -> Latents:
        """Another tensor over the same memory."""
        found = self.detach().as_subclass(Latents)
        found.requires_grad_(self.requires_grad)
        return found

    def __reduce_ex__(self, proto: Any) -> Any:
        """As the plain tensor that they are: torch.load with weights_only reads no class of ours."""
        plain = self.detach().as_subclass(Tensor).requires_grad_(self.requires_grad)
        return plain.__reduce_ex__(proto)


def checked_latents(latents: Float[Tensor, "B C H W"], shape: tuple[int, int, int]) -> Float[Tensor, "B C H W"]:
    """As plain float32 on the CPU; ValueError in one line for what cannot be latents of `shape` (C, H, W)."""
    allowed = f"allowed: floats of shape (B, {', '.join(map(str, shape))}), B at least 1"
    if not isinstance(latents, Tensor):
        raise ValueError(f"latents are a {type(latents).__name__}; {allowed}, in a torch.Tensor")
    if latents.dtype not in FLOATS:
        raise ValueError(f"latents are {str(latents.dtype).removeprefix('torch.')}; {allowed}")
    if latents.layout != strided or latents.is_meta:
        kind = "on the meta device, which holds no values" if latents.is_meta else "sparse; give latents.to_dense()"
        raise ValueError(f"latents are {kind}; {allowed}")
    if latents.ndim != 4 or not len(latents) or latents.shape[1:] != shape:
        hint = "; for one latent give latent[None]" if latents.shape == shape else ""
        raise ValueError(f"latents have shape {tuple(latents.shape)}; {allowed}{hint}")
    given_BCHW = latents.detach().as_subclass(Tensor).cpu()
    wrong_B = ~(given_BCHW.abs() <= LARGEST).flatten(1).all(1)  # NaN is not below anything
    if wrong_B.any():
        worst = float(given_BCHW[wrong_B][0].abs().max())
        what = f"values up to {worst:.3g}" if math.isfinite(worst) else "NaN or infinite values"
        raise ValueError(f"latent {int(wrong_B.nonzero()[0]) + 1} holds {what}; allowed: up to {LARGEST:g}")
    return given_BCHW.to(float32)
