"""Layer 4: kernel programs to machine code: lowering, child-process compile, object cache."""
