"""Defends receipts that are disputed."""
