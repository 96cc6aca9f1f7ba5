"""Endpoints: they parse, ask a repository and render."""
