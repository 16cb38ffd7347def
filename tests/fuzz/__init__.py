"""Coverage-guided fuzzing of everything that decodes bytes from outside: `python -m tests.fuzz`."""
