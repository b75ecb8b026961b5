"""Compositions of sampling for what one call of `pipeline.System.generate` cannot say; one file for each.

avatar    somebody's picture and a voice to a video of them speaking
"""
