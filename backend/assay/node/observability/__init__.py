"""What a node tells of itself: metrics, log lines, what `status --watch` shows."""
