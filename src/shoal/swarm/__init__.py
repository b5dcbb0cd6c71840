"""Swarm: chunks in motion. Have, want, schedule, serve."""
