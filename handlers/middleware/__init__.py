"""What stands around every command handler, one concern a file."""
