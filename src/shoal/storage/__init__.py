"""Storage: what survives a crash: home, database and its tables; reading and writing users' trees."""
