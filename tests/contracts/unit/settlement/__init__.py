"""Settlement, one file a function."""
