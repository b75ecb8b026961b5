"""From shards to weights: recipes, phases, the step, the loop. Start reading at ``step.py``."""
