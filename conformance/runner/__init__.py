"""Runs the conformance scenarios against the service and the clients."""
