"""Layer 3: files in, verified graphs out."""
