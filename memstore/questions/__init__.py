"""Question files, answer matching and metrics, which training and evaluation share. Knows no model."""
