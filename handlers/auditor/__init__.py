"""The auditor: one ordered reader of the log that writes one record for each cause."""
