"""Files of released reward models: what a folder holds, read without running or loading anything."""
