"""Questions and answers as files and scores: what training and evaluation share. Knows no model."""
