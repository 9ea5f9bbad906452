"""Charts as inline SVG, made on the server: no script, colours by CSS class, names escaped."""
