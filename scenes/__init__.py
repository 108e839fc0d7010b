"""A procedural audio-visual world: bouncing objects of several materials, with picture, stereo sound and truth."""
