"""What runs a loaded version: batches of whatever is waiting, fair shares, time limits."""
