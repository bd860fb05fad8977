"""Cloud providers behind one Protocol. See ``base``."""
