"""Procedural worlds with exact ground truth: what is drawn, how it is told, and how it is measured."""
