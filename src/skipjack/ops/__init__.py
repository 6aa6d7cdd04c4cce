"""Layer 2: one file per operator family; importing skipjack.ops.all registers them."""
