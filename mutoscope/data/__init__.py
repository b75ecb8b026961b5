"""What training eats: the clip record, shards of latents, the order in which they are read."""
