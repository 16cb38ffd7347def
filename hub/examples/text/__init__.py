"""A text that several people write."""
