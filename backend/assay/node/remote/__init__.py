"""Versions that another server runs, which speaks the Open Inference Protocol v2."""
