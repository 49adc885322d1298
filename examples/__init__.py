"""Whole experiments on public data, one command each: see the README in each folder."""
