"""The declared rules: each looks at what is true, and returns what is wrong."""
