"""Replicas of scorers and how they are asked: plain actors or Ray Serve, with deadline, retry and breaker."""
