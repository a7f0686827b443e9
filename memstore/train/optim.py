"""Updates parameters by AdamW, Adafactor or Muon; the learning rate's schedule; the optimizer's state as tensors.

Knows names and shapes of parameters; refuses to know losses, batches and files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from memstore.errors import CheckpointMismatch, ConfigError
from memstore.train.config import OptimizerConfig

_BLOCKS = ("memory_encoder.blocks.", "question_encoder.blocks.", "live.blocks.", "decoder.blocks.")
_LEFT_ALONE = ("embedding.weight", "table.weight", "head.weight")  # look-up tables and the output matrix: no decay


def learning_rate(step: int, config: OptimizerConfig, *, steps: int) -> float:
    """The learning rate at a step, which counts from 0; there are `steps` in all."""
    warmup = config.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(max(warmup, 1) / (step + 1))
    if config.schedule == "constant":
        return config.lr
    begin = max(warmup, round(steps * (1 - config.decay_share)))
    done = min(1.0, max(0.0, (step + 1 - begin) / max(1, steps - begin)))  # 0 until `begin`, 1 at the last step
    fallen = done if config.schedule == "linear" else (1 - math.cos(math.pi * done)) / 2
    return config.lr * (1 - (1 - config.final_lr_share) * fallen)


class Optimizer:
    """One or two torch optimizers that act as one.

    Attributes:
        parts: by name, "adamw", "adafactor" or "muon".
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        """Take the parameters that require a gradient. Frozen ones never change, not even by weight decay.

        Raises:
            ConfigError: the installed torch has no such optimizer.
        """
        self.clip_norm = config.clip_norm
        self._names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        groups = _groups(model, config)
        self.parts = {name: _make(name, groups[name], config) for name in groups if groups[name]}

    @torch.no_grad()
    def step(self, lr: float) -> Tensor:
        """Clip the gradients, update every parameter, and drop the gradients.

        Returns:
            The gradients' norm before clipping, a scalar on their device. If it is not finite, nor are the parameters
            any more. The caller must check it and stop; not at every step, as that would wait for the device.
        """
        with_gradient = [p for p in self._parameters if p.grad is not None]
        limit = self.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(with_gradient, limit)
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
            part.zero_grad(set_to_none=True)
        return norm

    def gradients(self) -> tuple[list[Tensor], Tensor]:
        """The gradients of all parameters, the same list in every process, and `(P,)`: 1 if there was one, else 0.

        A parameter without a gradient gets zeros.
        """
        here = torch.tensor([float(p.grad is not None) for p in self._parameters], device=self._parameters[0].device)
        for p in self._parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        return [p.grad for p in self._parameters if p.grad is not None], here

    def forget(self, reached: Tensor) -> None:
        """Drop the gradients where `reached` `(P,)` is 0, after it was averaged over processes.

        A parameter that no process's loss reached stays as it is, without weight decay too, as in a single process.
        """
        for p, share in zip(self._parameters, reached.tolist(), strict=True):
            if not share:
                p.grad = None

    def state(self) -> dict[str, Tensor]:
        """All state as tensors on the CPU, by `{optimizer}/{what}/{parameter}`."""
        found = {}
        for name, part in self.parts.items():
            for p, values in part.state.items():
                for what, value in values.items():
                    tensor = value if isinstance(value, Tensor) else torch.tensor(value)
                    found[f"{name}/{what}/{self._names[id(p)]}"] = tensor.detach().cpu().contiguous()
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`, into the same optimizer over the same parameters.

        Raises:
            CheckpointMismatch: the state is of another optimizer, or of other parameters.
        """
        rest: dict[tuple[str, str], dict[str, Tensor]] = {}  # (optimizer, parameter) -> what -> value
        for key, value in state.items():
            optimizer, what, parameter = key.split("/")
            rest.setdefault((optimizer, parameter), {})[what] = value
        for name, part in self.parts.items():
            parameters = [p for group in part.param_groups for p in group["params"]]
            values = [rest.pop((name, self._names[id(p)]), {}) for p in parameters]
            part.load_state_dict(part.state_dict() | {"state": {i: v for i, v in enumerate(values) if v}})
        if rest:
            raise CheckpointMismatch(
                f"the optimizer's state does not fit: it holds values of another optimizer or another model, such as "
                f"those of {' for '.join(min(rest))}. Start again in another folder."
            )


def _groups(model: nn.Module, config: OptimizerConfig) -> dict[str, list[dict[str, Any]]]:
    """The parameters of each optimizer, grouped into those with weight decay and those without."""
    main = "adafactor" if config.name == "adafactor" else "adamw"
    sorted_: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, p in _trainable(model):
        matrix = p.ndim == 2 and not name.endswith(_LEFT_ALONE)
        hidden = matrix and (name.startswith(_BLOCKS) or name.startswith(("copy_head.query", "copy_head.key")))
        optimizer = "muon" if config.name == "muon" and hidden else main
        sorted_.setdefault((optimizer, matrix), []).append(p)
    groups: dict[str, list[dict[str, Any]]] = {}
    for (optimizer, matrix), parameters in sorted_.items():
        decay = config.weight_decay if matrix else 0.0
        groups.setdefault(optimizer, []).append({"params": parameters, "weight_decay": decay})
    return groups


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _make(name: str, groups: Sequence[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    kind = {"adamw": "AdamW", "adafactor": "Adafactor", "muon": "Muon"}[name]
    if not hasattr(torch.optim, kind):
        raise ConfigError(f"optimizer = {name!r} needs a newer torch than {torch.__version__}; use adamw")
    if name == "adamw":
        betas = (config.beta1, config.beta2)
        return torch.optim.AdamW(list(groups), lr=config.lr, betas=betas, eps=config.eps, fused=True)
    if name == "adafactor":
        return torch.optim.Adafactor(list(groups), lr=config.lr)
    return MuonByShape(list(groups), lr=config.lr, momentum=config.momentum, adjust_lr_fn="match_rms_adamw")


class MuonByShape(torch.optim.Muon):
    """torch's Muon (Jordan et al., 2024), with its learning rate matched to AdamW's, but faster for small models.

    Matrices of the same shape are orthogonalised together. One by one, many small products would leave a GPU idle.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for parameters in alike.values():
                self._move(parameters, group)

    def _move(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        """Update N parameters of the same shape."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        moves = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        update = _orthogonal(
            torch.stack(list(moves)), group["ns_coefficients"], steps=group["ns_steps"], eps=group["eps"]
        )
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        lr = group["lr"] * 0.2 * math.sqrt(max(parameters[0].shape))  # as large as an AdamW step, by root mean square
        torch._foreach_add_(parameters, list(update.to(parameters[0].dtype).unbind()), alpha=-lr)


def _orthogonal(x: Tensor, coefficients: Sequence[float], *, steps: int, eps: float) -> Tensor:
    """N matrices `(N, A, B)` with their singular values moved near 1, by Newton-Schulz iteration in bfloat16."""
    a, b, c = coefficients
    tall = x.shape[1] > x.shape[2]  # transposed, its Gram matrix is the smaller one
    y = x.bfloat16()
    y = y.mT if tall else y
    y = y / y.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = y @ y.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        y = torch.baddbmm(y, gram, y, beta=a)  # a y + (b g + c g g) y, where g = y y^T
    return y.mT if tall else y
