"""Doors to the package. They parse, call one function below, and print."""
