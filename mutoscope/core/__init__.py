"""What any torch project could use: errors, config, random numbers, weights, logs, video files. No model, no maths."""
