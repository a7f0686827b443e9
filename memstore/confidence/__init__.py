"""How sure one may be of an answer: what shows it, the probability fitted to that, and how well such figures hold.

`features.py` has what is looked at, `calibration.py` the probability, `fit.py` where it comes from, and `curves.py` how
good it is. Numbers alone: nothing here knows models, stores or texts.
"""

from memstore.confidence.calibration import Calibration, plain
from memstore.confidence.features import FEATURES, Evidence, features

__all__ = ["FEATURES", "Calibration", "Evidence", "features", "plain"]
