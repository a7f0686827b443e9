"""Compares FiD, LUMEN, GLIMMER and its ablations: the quality and the cost of each."""
