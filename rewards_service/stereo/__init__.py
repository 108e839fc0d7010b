"""Where a sound comes from: delay between the channels, levels and width, and how far two such images agree."""
