"""CLI: what a person types. A client of the API and the launcher of the node."""
