"""Many models at once: each in a process of its own, with results that are kept by content."""
