"""From a corpus to a finished store. Does not answer questions, and knows no HTTP."""
