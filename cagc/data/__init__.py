"""Image sets, image files, masks and content parsers: everything that reads pixels from disk."""
