"""What content a tenant lets in and out: documents of rules, and the pure code that goes by them."""
