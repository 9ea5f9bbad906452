"""A recipe: trees of several seeds and a linear member, put together by out-of-fold days."""
