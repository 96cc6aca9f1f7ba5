"""Receipts into money: batches, what they are worth, posting, collecting, profit and loss."""
