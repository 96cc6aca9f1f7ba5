"""Measurements (`scripts/bench`): one module each, whose `run()` returns the rows that it measured."""
