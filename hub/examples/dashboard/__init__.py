"""Live charts of the workers."""
