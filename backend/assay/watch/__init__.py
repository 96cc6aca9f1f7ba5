"""The watcher: re-executes receipts of exact versions and disputes those that are wrong."""
