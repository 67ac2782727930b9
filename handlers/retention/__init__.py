"""What lets old events of the log go, once an archive holds them and everybody has read them."""
