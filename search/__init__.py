"""Which settings are trained, where, and what is kept of them."""
