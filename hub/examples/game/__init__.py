"""A game for everybody who is here."""
