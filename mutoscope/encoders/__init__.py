"""Prompts to tokens: one self-contained file for each encoder, all with the interface of ``base``."""
