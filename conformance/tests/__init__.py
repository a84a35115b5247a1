"""Tests of the runner itself."""
