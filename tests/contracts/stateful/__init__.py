"""The contracts against a Python model."""
