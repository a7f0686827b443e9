"""What training reads: the cache of questions with their candidates, and the batches made of it."""
