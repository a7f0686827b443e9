"""What is computed: tokens, packed rows, T5 layers, the three systems, ranking and what it all costs."""
