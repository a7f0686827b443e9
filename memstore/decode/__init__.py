"""From encoded rows to answers: greedy or beam search over the decoder, free or held to spans of what was read."""

from memstore.decode.search import Decoded, beam_search, generate, greedy, greedy_uncached

__all__ = ["Decoded", "beam_search", "generate", "greedy", "greedy_uncached"]
