"""Where weights come from and go to: folders of ours, stock T5 checkpoints, hub ids."""

from memstore.checkpoint.calibrated import calibration_of, weights_mark
from memstore.checkpoint.loading import (
    DEFAULT,
    DTYPES,
    assign,
    default_checkpoint,
    fingerprint,
    from_scratch,
    from_t5,
    is_own,
    load,
    model_of,
    read_config,
    resolve,
    save,
    tokenizer_of,
)

__all__ = [
    "DEFAULT",
    "DTYPES",
    "assign",
    "calibration_of",
    "default_checkpoint",
    "fingerprint",
    "from_scratch",
    "from_t5",
    "is_own",
    "load",
    "model_of",
    "read_config",
    "resolve",
    "save",
    "tokenizer_of",
    "weights_mark",
]
