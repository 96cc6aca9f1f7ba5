"""Verifies and settles x402 payments on this deployment's token, beside a node."""
