"""A loopback stand-in for Globus: Auth, Groups and Transfer over HTTPS, for tests and for trying things out."""
