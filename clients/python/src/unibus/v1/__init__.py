"""The generated messages and stubs of the package unibus.v1, for what the client does not offer."""
