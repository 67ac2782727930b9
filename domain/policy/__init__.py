"""What content a tenant lets in and out: rules, and the pure code that goes by them."""
