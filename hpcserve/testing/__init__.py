"""What stands in for services that a laptop or a test cannot have."""
