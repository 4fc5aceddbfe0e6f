"""What hpcserve costs, beside bare ZeroMQ on the same machine at the same time."""
