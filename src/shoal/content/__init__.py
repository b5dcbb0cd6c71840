"""Content: the format, pure. Stream, cut, seal, manifest, feed, link; opens no file and no socket."""
