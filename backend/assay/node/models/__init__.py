"""From an offer on the chain to a version that is served: fetched, held to the rules, loaded, let go."""
