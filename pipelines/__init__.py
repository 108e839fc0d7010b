"""What each command does, one file a command; wires the rooms below together."""
