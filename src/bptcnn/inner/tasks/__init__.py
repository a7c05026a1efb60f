"""Tasks: what depends on what, what comes first, and what happened. Pure."""
