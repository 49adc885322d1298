"""Aggregation, part by part: held to whole numbers of any size, and to plain numpy."""
