"""What an error counts in each dimension and token of a memory: that of what the live stack's first norm makes of it.

The norm divides a token by its root mean square and multiplies dimensions by weights (T5, section 2.1). So an error
counts less in a large token, and in a dimension of small weight.
"""

from __future__ import annotations

import torch

from memstore.errors import ConfigError

# The residual stream goes on to later norms too: no dimension counts less than this share of the median one.
_LEAST = 0.1


def checked(weights: torch.Tensor | None, width: int) -> torch.Tensor:
    """Positive float32 weights (D,), of a norm's weights or of None: all ones.

    Raises:
        ConfigError: they are not as many as the states are wide, or not finite.
    """
    if weights is None:
        return torch.ones(width)
    found = weights.detach().cpu().float().abs()
    if found.shape != (width,) or not bool(torch.isfinite(found).all()):
        raise ConfigError(f"a codec of states {width} wide takes {width} finite weights, not {tuple(weights.shape)}")
    floor = _LEAST * float(found.median())
    return found.clamp_min(floor) if floor > 0 else torch.ones(width)


def token_scales(states: torch.Tensor) -> torch.Tensor:
    """The root mean square of each token, (T,) float32; 1 for a token of zeros."""
    scales = states.float().pow(2).mean(1).sqrt()
    return torch.where(scales > 0, scales, torch.ones_like(scales))


def normed_error(states: torch.Tensor, decoded: torch.Tensor, weights: torch.Tensor | None = None) -> float:
    """The relative error of decoded states (T, D) after a norm with weights (D,): 0 for none, 1 for all of it."""
    of = checked(weights, states.shape[1]).to(states.device)
    wanted = states.float() / token_scales(states)[:, None] * of
    found = decoded.float() / token_scales(decoded)[:, None] * of
    return float((wanted - found).norm() / wanted.norm().clamp_min(1e-30))
