"""What runs have come to, as a page: written once, or live."""
