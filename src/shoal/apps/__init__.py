"""Apps: what people want, one folder each."""
