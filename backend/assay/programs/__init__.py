"""Programs of artifacts that nobody vouches for: lowered in a child process with limits (SPEC.md §10)."""
