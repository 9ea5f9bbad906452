"""LightGBM's text format: one strict parser whose result the loader, engines and reasons share."""
