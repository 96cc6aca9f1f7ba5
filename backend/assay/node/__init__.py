"""Serves inference with signed receipts, and settles what it is owed."""
