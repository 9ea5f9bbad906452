"""What single tasks declare in a spec besides the keys of all of them."""
