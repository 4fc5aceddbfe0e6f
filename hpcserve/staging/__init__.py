"""Large inputs and results on their way: as files that are seen, by HTTPS, by Globus transfer."""
