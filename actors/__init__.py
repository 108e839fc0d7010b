"""Stateful Ray actors: coordinator, rollout worker, experience buffer, weight store."""
