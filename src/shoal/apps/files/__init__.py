"""Files: share a tree, get it elsewhere, go on serving it."""
