"""Training: from a config and a cache of candidates to a checkpoint."""
