"""Judges: objects that look at clips and say numbers, for filtering, rewarding and grading alike."""
