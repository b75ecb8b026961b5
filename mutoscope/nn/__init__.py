"""Layers that at least two families use with the same equation. They know no family, no clock and no device."""
