"""Layer 3: kernel generators and how nodes become launches of them."""
