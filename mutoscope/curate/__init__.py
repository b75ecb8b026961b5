"""The write side: from a folder of raw video to a training set that can be explained."""
