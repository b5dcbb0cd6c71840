"""Identity: keys, ids, signed entries and the rules of membership as pure functions."""
