"""The scorers whose models are released elsewhere: weights are files that the user brings."""
