"""From encoded rows to answers: greedy or beam search over the decoder, free or held to spans of what was read."""

from memstore.decode.beams import beam_search
from memstore.decode.search import OnToken, generate, greedy, greedy_uncached
from memstore.decode.steps import Decoded

__all__ = ["Decoded", "OnToken", "beam_search", "generate", "greedy", "greedy_uncached"]
