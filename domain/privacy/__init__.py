"""What may be erased: whose content it is, where it stands in a line, and who may read it."""
