"""memstore: answers questions over large text collections from precomputed passage memories (GLIMMER)."""

__version__ = "0.1.0"
