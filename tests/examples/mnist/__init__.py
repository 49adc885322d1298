"""Tests of examples/mnist."""
