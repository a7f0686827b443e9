"""8-bit integers with a scale a token and a fitted scale a dimension. Knows no model: what counts is given as weights.

A T5's residual stream has a few dimensions that are hundreds of times larger than the others, and one scale a token is
as coarse as they need it. Divided by a scale for each dimension first, all dimensions use the eight bits. Which scales
are best is a convex problem, so `fit` finds the same answer from wherever it begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from memstore.codec.base import Arrays, ArraySpec, Codec, Tables, as_tensors, require_finite, spaced
from memstore.codec.int8 import dequantised, int8_arrays, quantised
from memstore.codec.weights import checked, token_scales
from memstore.errors import ConfigError

_FIT_TOKENS = 4096  # of the sample: more changed the error by less than a hundredth of it
_STEPS = 60
_STEP = 0.05  # of the logarithm of a scale; it falls to zero


@dataclass(frozen=True, slots=True, eq=False)
class ScaledInt8Codec:
    """Codes in [-127, 127] times a float32 scale of the token times a float32 scale of the dimension.

    `scales` is `(D,)` float32 on the CPU; None before `fit`.
    """

    scales: torch.Tensor | None = None
    name: str = "int8-fitted"
    sample_tokens: int = 16_384

    def fit(self, states: torch.Tensor, token_ids: torch.Tensor, *, weights: torch.Tensor | None = None) -> Codec:
        """See `Codec.fit`."""
        require_finite(states)
        sample = states[spaced(len(states), _FIT_TOKENS)].float()
        return ScaledInt8Codec(best_scales(sample, checked(weights, states.shape[1])))

    def tables(self) -> Tables:
        """See `Codec.tables`."""
        return {} if self.scales is None else {"scales": self.scales.numpy()}

    def with_tables(self, tables: Tables) -> Codec:
        """See `Codec.with_tables`."""
        scales = as_tensors(tables, {"scales": ("float32", (None,))})["scales"]
        if not bool((scales > 0).all()) or not bool(torch.isfinite(scales).all()):
            raise ValueError("scales must be finite and above 0")
        return ScaledInt8Codec(scales)

    def attributes(self) -> dict[str, Any]:
        """See `Codec.attributes`."""
        return {"name": self.name, "version": 1}

    def arrays(self, *, d_model: int, max_tokens: int) -> tuple[ArraySpec, ...]:
        """See `Codec.arrays`."""
        return int8_arrays(d_model=d_model, max_tokens=max_tokens)

    def encode(self, states: torch.Tensor, token_ids: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
        """See `Codec.encode`."""
        require_finite(states)
        divided = states.detach().cpu().float() / self._fitted()  # (T, D)
        largest = divided.abs().amax(dim=1) if divided.numel() else torch.zeros(len(divided))  # (T,)
        return quantised(divided, largest)

    def decode(
        self, arrays: Arrays, token_ids: torch.Tensor, *, dtype: torch.dtype, device: str | torch.device
    ) -> torch.Tensor:
        """See `Codec.decode`. Multiplies in float32 and rounds once."""
        return dequantised(arrays, of_dimension=self._fitted(), dtype=dtype, device=device)

    def _fitted(self) -> torch.Tensor:
        if self.scales is None:
            raise ConfigError(f"the codec {self.name!r} has not been fitted")
        return self.scales


def best_scales(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The scales `(D,)` float32 of dimensions that make the weighted error least, for states (T, D) float32.

    A token's step in dimension d is its scale, max_d |x_d| / c_d, times c_d; rounding is off by up to half of it. So
    the mean squared error of what a norm makes of it is, up to a factor, mean_t(max_d (x_d / c_d)^2 / rms_t^2) times
    sum_d (w_d c_d)^2. In the logarithms of c that is a product of sums of exponentials: convex.
    """
    normed = states.abs() / token_scales(states)[:, None]  # (T, D)
    typical = normed.pow(2).mean(0).sqrt().clamp_min(1e-6)  # (D,)
    log_scales = (0.25 * typical.log() - 0.75 * weights.log()).requires_grad_()  # near the best ones of a real T5
    optimizer = torch.optim.Adam([log_scales], lr=_STEP)
    with torch.enable_grad():
        for number in range(_STEPS):
            optimizer.param_groups[0]["lr"] = _STEP * (1 - number / _STEPS)
            scales = log_scales.exp()
            steps = (normed / scales).amax(1).pow(2).mean().clamp_min(1e-30)
            loss = steps.log() + (weights * scales).pow(2).sum().log()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    scales = (log_scales.detach() - log_scales.detach().mean()).exp()
    return scales.contiguous()
