"""The Apptainer definition files that hpcserve ships."""
