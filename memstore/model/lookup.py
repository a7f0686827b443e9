"""Tables of vectors by number: of tokens, of distances."""

from __future__ import annotations

import torch
from torch import nn


def lookup(count: int, width: int) -> nn.Embedding:
    """An embedding of `count` vectors.

    On the meta device, where a model waits for a checkpoint's parameters, none are drawn: torch would load its
    compiler for that, which takes 1.5 s at every start and fails where no temporary folder is.
    """
    weight = torch.empty(count, width)
    return nn.Embedding(count, width, _weight=weight) if weight.is_meta else nn.Embedding(count, width)
