"""Content-addressed artifact store: a store on obstore, an HTTP hub over it, a client for both."""
