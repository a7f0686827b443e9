"""FiD, LUMEN, GLIMMER and its ablations side by side: what each costs, and what each is worth for it."""
