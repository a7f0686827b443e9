"""Training: so far the tokenizer of models trained from scratch."""
