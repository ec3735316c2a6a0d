"""Image sets, image files and content parsers: everything that reads pixels from disk."""
