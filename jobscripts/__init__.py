"""The job script templates that hpcserve ships, one for each batch scheduler."""
