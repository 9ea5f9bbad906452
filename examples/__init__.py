"""Projects that use nightshift. The library imports none of them."""
