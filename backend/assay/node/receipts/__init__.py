"""The durable receipts log: a journal and SQLite for one process, PostgreSQL for several."""
