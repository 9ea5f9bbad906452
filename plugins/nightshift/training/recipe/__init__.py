"""A recipe: trees of several seeds and nights, and a linear member; out-of-fold days choose."""
