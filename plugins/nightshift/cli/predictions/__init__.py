"""Commands that publish predictions, monitor them and explain them."""
