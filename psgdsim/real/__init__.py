"""Real mode: the same programs as operating-system processes that talk TCP."""
