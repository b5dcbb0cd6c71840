"""Transport: dial, listen, TLS, sessions, lanes and LAN discovery."""
