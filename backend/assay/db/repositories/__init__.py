"""All queries of the index database, one module a subject."""
