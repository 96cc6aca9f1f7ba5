"""Who pays, whether the escrow covers it, and the view of the chain behind that."""
