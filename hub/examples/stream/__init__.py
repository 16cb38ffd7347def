"""A long answer, word by word."""
