"""A product quantizer (MEMORY-VQ, arXiv 2308.14903, uses one): a byte for 8 or 16 dimensions. Knows no model.

    r = rms(x)                          a token's scale, kept as bfloat16: the live norm divides by it
    u = x / r - mean of its token id    what the passage adds to what the word alone says
    v = u W R                           W: what dimensions count; R: half the principal axes, shared out evenly
    code of part j = the nearest of 256 centroids to v's dimensions of part j
    x' = r (mean + centroids R' / W)

All of it was measured to help (docs/codecs.md). The other half of the axes would get hardly any of the bits, and make
the product by R' twice as long. k-means is faiss'; looking up is one gather and that product.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memstore.codec.base import SERIAL_VALUES, Arrays, ArraySpec, Codec, Tables, as_tensors, require_finite, spaced
from memstore.codec.token_means import TokenMeans
from memstore.codec.weights import checked, token_scales
from memstore.errors import ConfigError
from memstore.machine import compute_dtype

CENTROIDS = 256  # of a part: a code is a byte
_KMEANS_TOKENS = 65_536  # of the sample: 256 for a centroid, as faiss takes at most
_ITERATIONS = 10
_SEARCHED = 1 << 22  # numbers compared at a time: 16 MiB


@dataclass(frozen=True, slots=True, eq=False)
class _Learned:
    """What `fit` found, float32 on the CPU: `into` (D, M * axes), `out` (M * axes, D), `centroids` (M, 256, axes)."""

    means: TokenMeans
    into: torch.Tensor
    out: torch.Tensor
    centroids: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ProductCodec:
    """A byte for each `dims` dimensions, and two for the token's scale. A part has half as many axes, `axes`.

    Any width will do: of parts that begin, the last has axes that are zero.
    """

    dims: int
    name: str
    learned: _Learned | None = None
    sample_tokens: int = 131_072
    _ready: dict[tuple[torch.dtype, torch.device], _Ready] = field(default_factory=dict, init=False, repr=False)

    def fit(self, states: torch.Tensor, token_ids: torch.Tensor, *, weights: torch.Tensor | None = None) -> Codec:
        """See `Codec.fit`. Memory: three times the sample in float32.

        Raises:
            ConfigError: there are no tokens.
        """
        if not len(states):
            raise ConfigError(f"the codec {self.name!r} cannot be fitted without tokens")
        require_finite(states)
        of = checked(weights, states.shape[1])
        normed = states.float() / token_scales(states)[:, None]  # (T, D)
        means = TokenMeans.fit(normed, token_ids)
        residuals = (normed - means.of(token_ids).float()).mul_(of)
        parts = -(-states.shape[1] // self.dims)
        rotation = balanced_rotation(residuals, parts=parts, axes=self.axes)  # (D, M * axes)
        rotated = residuals[spaced(len(residuals), _KMEANS_TOKENS)] @ rotation
        learned = _Learned(
            means=means,
            into=(of[:, None] * rotation).contiguous(),
            out=(rotation.T / of).contiguous(),
            centroids=kmeans(rotated, parts=parts, axes=self.axes),
        )
        return ProductCodec(self.dims, self.name, learned)

    def tables(self) -> Tables:
        """See `Codec.tables`."""
        if self.learned is None:
            return {}
        maps = {"into": self.learned.into, "out": self.learned.out, "centroids": self.learned.centroids}
        return {name: table.numpy() for name, table in maps.items()} | dict(self.learned.means.tables())

    def with_tables(self, tables: Tables) -> Codec:
        """See `Codec.with_tables`."""
        width = tables["into"].shape[0] if "into" in tables and tables["into"].ndim == 2 else 0
        parts = -(-width // self.dims)
        inner = parts * self.axes
        found = as_tensors(tables, TokenMeans.wanted(width) | {
            "into": ("float32", (width, inner)),
            "out": ("float32", (inner, width)),
            "centroids": ("float32", (parts, CENTROIDS, self.axes)),
        })  # fmt: skip
        means = TokenMeans.of_tables(found)
        learned = _Learned(means, found["into"], found["out"], found["centroids"])
        return ProductCodec(self.dims, self.name, learned)

    @property
    def axes(self) -> int:
        """Principal axes that a byte stands for."""
        return self.dims // 2

    def attributes(self) -> dict[str, Any]:
        """See `Codec.attributes`."""
        return {"name": self.name, "version": 1, "dims": self.dims, "axes": self.axes}

    def arrays(self, *, d_model: int, max_tokens: int) -> tuple[ArraySpec, ...]:
        """See `Codec.arrays`. `scales` are bit patterns of bfloat16, which Zarr has not."""
        return (
            ArraySpec("states", "uint8", (max_tokens, -(-d_model // self.dims))),
            ArraySpec("scales", "uint16", (max_tokens,)),
        )

    def encode(self, states: torch.Tensor, token_ids: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
        """See `Codec.encode`. Searches where the states are."""
        states = states.detach()
        require_finite(states)
        ready = self._on(torch.float32, states.device)
        scales = token_scales(states).to(torch.bfloat16)  # (T,)
        if not bool(torch.isfinite(scales).all()):
            require_finite(states.to(torch.bfloat16))
        # By the scale that is kept: the next codes make up for its rounding.
        residuals = states.float() / scales.float()[:, None] - ready.means.of(token_ids.to(states.device)).float()
        codes = nearest(residuals @ ready.into, ready.centroids)
        return {"states": codes.cpu().numpy(), "scales": scales.cpu().view(torch.uint16).numpy()}

    def decode(
        self, arrays: Arrays, token_ids: torch.Tensor, *, dtype: torch.dtype, device: str | torch.device
    ) -> torch.Tensor:
        """See `Codec.decode`. Computes in `dtype`, or in float32 where a processor has no quick products of bfloat16;
        `plain_decode` is its twin.
        """
        if torch.device(device).type == "cpu" and dtype != torch.float32 and dtype != compute_dtype("cpu"):
            return self.decode(arrays, token_ids, dtype=torch.float32, device=device).to(dtype)
        ready = self._on(dtype, torch.device(device))
        codes = torch.from_numpy(arrays["states"]).to(device)  # (T, M)
        scales = torch.from_numpy(arrays["scales"]).view(torch.bfloat16).to(device)  # (T,)
        states = ready.means.of(token_ids.to(device)).to(dtype)  # (T, D)
        step = max(1, SERIAL_VALUES // max(1, codes.shape[1])) if states.is_cpu else max(1, len(codes))
        rotated = torch.empty(len(codes), ready.out.shape[0], dtype=dtype, device=device)  # (T, M * axes)
        for first in range(0, len(codes), step):
            places = (codes[first : first + step].to(torch.int32) + ready.firsts).flatten()
            found = ready.flat.index_select(0, places)  # (t * M, axes)
            rotated[first : first + step] = found.view(-1, ready.out.shape[0])
        states.addmm_(rotated, ready.out)
        return states.mul_(scales.to(dtype)[:, None])

    def plain_decode(self, arrays: Arrays, token_ids: torch.Tensor) -> torch.Tensor:
        """What `decode` gives, (T, D) float32 on the CPU, one part after another."""
        learned = self._fitted()
        rotated = torch.cat([
            centroids[torch.from_numpy(arrays["states"][:, part]).long()]
            for part, centroids in enumerate(learned.centroids)
        ], dim=1)  # (T, M * axes)  # fmt: skip
        scales = torch.from_numpy(arrays["scales"]).view(torch.bfloat16).float()
        return (learned.means.of(token_ids.cpu()).float() + rotated @ learned.out) * scales[:, None]

    def _fitted(self) -> _Learned:
        if self.learned is None:
            raise ConfigError(f"the codec {self.name!r} has not been fitted")
        return self.learned

    def _on(self, dtype: torch.dtype, device: torch.device) -> _Ready:
        """The tables in a dtype on a device, made once."""
        if (dtype, device) not in self._ready:
            self._ready[dtype, device] = _Ready.of(self._fitted(), dtype, device)
        return self._ready[dtype, device]


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """Tables as `encode` and `decode` use them: `flat` (M * 256, axes), `firsts` (M,) where each part's begin in it."""

    means: TokenMeans
    into: torch.Tensor
    out: torch.Tensor
    centroids: torch.Tensor
    flat: torch.Tensor
    firsts: torch.Tensor

    @classmethod
    def of(cls, learned: _Learned, dtype: torch.dtype, device: torch.device) -> _Ready:
        """`learned` in a dtype on a device."""
        into, out, centroids = (t.to(device, dtype) for t in (learned.into, learned.out, learned.centroids))
        firsts = CENTROIDS * torch.arange(len(centroids), dtype=torch.int32, device=device)
        return cls(learned.means.to(device), into, out, centroids, centroids.flatten(0, 1), firsts)


def balanced_rotation(residuals: torch.Tensor, *, parts: int, axes: int) -> torch.Tensor:
    """The first principal axes (D, parts * axes) of residuals (T, D), so that all parts vary alike.

    All have about the same product of variances. That is the best product quantizer where residuals are Gaussian
    ("Optimized Product Quantization", arXiv 1311.4055, section 3.2, eigenvalue allocation): one axis after another,
    the largest variance first, goes to the part whose product is least so far.
    """
    centred = residuals - residuals.mean(0)
    covariance = (centred.T @ centred).double().numpy() / max(1, len(residuals))
    variances, vectors = np.linalg.eigh(covariance)  # ascending
    order = np.argsort(-variances, kind="stable")[: parts * axes]
    logs = np.log(np.maximum(variances[order], 1e-9 * max(float(variances[-1]), 1e-30)))
    logs -= logs[-1] - 1e-9  # all above 0: a part with one axis more has a larger product
    chosen: list[list[int]] = [[] for _ in range(parts)]
    products = np.zeros(parts)
    for axis, log in zip(order.tolist(), logs.tolist(), strict=True):
        part = min((p for p in range(parts) if len(chosen[p]) < axes), key=lambda p: (products[p], p))
        chosen[part].append(axis)
        products[part] += log
    rotation = np.zeros((residuals.shape[1], parts * axes), dtype=np.float32)
    for part, own in enumerate(chosen):
        rotation[:, part * axes : part * axes + len(own)] = vectors[:, own]
    return torch.from_numpy(rotation)


def kmeans(rotated: torch.Tensor, *, parts: int, axes: int) -> torch.Tensor:
    """Centroids (M, 256, axes) of rotated residuals (T, M * axes), by faiss; the same for the same tokens."""
    import faiss  # here: what only decodes does without

    values = rotated.numpy()
    if len(values) < CENTROIDS:  # faiss wants one for each centroid
        values = np.tile(values, (-(-CENTROIDS // len(values)), 1))
    quantizer = faiss.ProductQuantizer(parts * axes, parts, 8)
    quantizer.cp.niter, quantizer.cp.seed, quantizer.cp.min_points_per_centroid = _ITERATIONS, 1, 1
    quantizer.train(np.ascontiguousarray(values))
    centroids = faiss.vector_to_array(quantizer.centroids).reshape(parts, CENTROIDS, axes)
    return torch.from_numpy(np.array(centroids, dtype=np.float32))


def nearest(rotated: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The number (T, M) uint8 of the centroid, of (M, 256, axes), that is nearest to each part of (T, M * axes)."""
    parts, count, axes = centroids.shape
    offsets = -0.5 * centroids.pow(2).sum(-1)[:, None]  # (M, 1, 256): |v - c|^2 is |v|^2 - 2 (v c - |c|^2 / 2)
    keys = centroids.transpose(1, 2)  # (M, axes, 256)
    codes = torch.empty(len(rotated), parts, dtype=torch.uint8, device=rotated.device)
    step = max(1, _SEARCHED // (parts * count))
    for first in range(0, len(rotated), step):
        values = rotated[first : first + step].view(-1, parts, axes).transpose(0, 1)  # (M, t, axes)
        codes[first : first + step] = torch.baddbmm(offsets, values, keys).argmax(-1).T
    return codes
