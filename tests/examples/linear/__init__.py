"""Tests of examples/linear."""
