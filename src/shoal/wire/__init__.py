"""Wire: frames, codec, message tables, text forms and limits. No sockets."""
